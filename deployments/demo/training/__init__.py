"""The recipe that trains the demo checkpoint; not needed at run time."""
