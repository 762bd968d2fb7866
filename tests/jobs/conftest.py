"""Fixtures: an empty store of each kind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.jobs.bench import KINDS, Bench, Benches, benches_in
from tests.jobs.postgres import postgres

__all__ = ["postgres"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store in turn."""
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str | None:
    """A running PostgreSQL server, for tests with the parameter `postgres`."""
    if "postgres" in request.node.callspec.params.values():
        return str(request.getfixturevalue("postgres"))
    return None


@pytest.fixture
async def benches(tmp_path: Path, url: str | None) -> AsyncIterator[Benches]:
    """Opens stores, and closes them after the test."""
    async with benches_in(tmp_path, url) as opened:
        yield opened


@pytest.fixture
async def bench(benches: Benches, kind: str) -> Bench:
    """An empty store with the default rules, and its clock."""
    return await benches.open(kind)
