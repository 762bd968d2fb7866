"""Florence Serve: Florence-2 behind fal's HTTP protocol, as a Ray Serve application."""

__version__ = "0.3.0"
