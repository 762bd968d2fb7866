"""Makes checkpoints in transformers' own layout of weights in others, and of adapters."""
