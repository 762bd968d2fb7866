"""The command line, for what a local service refuses."""

from tests.cli.conftest import florence

__all__ = ["florence"]
