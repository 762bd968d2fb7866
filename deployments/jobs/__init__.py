"""The life of a request: its states, the stores that keep it, the webhooks that tell of its end."""
