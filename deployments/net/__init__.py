"""Calls to the outside on a client's behalf: which are allowed, and how they are made."""
