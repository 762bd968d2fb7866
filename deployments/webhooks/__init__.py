"""Webhooks: what is delivered, how it is signed, and how it is delivered."""
