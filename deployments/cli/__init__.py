"""The command `florence`, one module a command."""
