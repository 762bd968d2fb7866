"""Drills: a part of the service is broken under constant load, mended, and the losses counted."""
