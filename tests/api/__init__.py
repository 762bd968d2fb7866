"""Tests of the HTTP side, over real ASGI requests."""
