"""The engine: sequences join and leave the decoder's batch at every step."""
