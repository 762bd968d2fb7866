"""What the service and its parts can do, in figures; each command writes them to `out/bench/`."""
