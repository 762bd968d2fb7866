"""Pixels in: fetch or decode what a client sent, without trusting any of it."""
