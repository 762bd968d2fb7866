"""Webhooks: the job's outcome sent to a URL, signed, until it is delivered."""
