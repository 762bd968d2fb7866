"""Traces: what happened to one request, in which process, and for how long."""
