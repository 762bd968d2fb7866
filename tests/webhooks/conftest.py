"""Every store there is, for the webhooks that are kept in it."""

from pathlib import Path

import pytest

from tests.jobs.conftest import bench, benches, kind, needs_postgres, postgres, url

__all__ = ["bench", "benches", "kind", "postgres", "url"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A PostgreSQL server takes its time: what needs one is no fast test."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and needs_postgres(item):
            item.add_marker(pytest.mark.slow)
