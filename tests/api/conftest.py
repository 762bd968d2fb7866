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


@pytest.fixture(scope="session")
def default_service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service as it is by default, for the whole session."""
    return build(tmp_path_factory.mktemp("shared") / "files")


@pytest.fixture
def shared(default_service: Service) -> Service:
    """The same service for many tests: its store keeps what others did, its lists begin empty."""
    default_service.runs.clear()
    default_service.wakes.clear()
    return default_service
