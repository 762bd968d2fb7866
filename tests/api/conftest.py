"""Fixtures of the HTTP side."""

from functools import partial
from pathlib import Path

import pytest

from .service import Serve, Service, build


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Makes services with a folder of their own."""
    return partial(build, tmp_path / "files")


@pytest.fixture
def service(serve: Serve) -> Service:
    """A service as it is by default."""
    return serve()
