"""Services that are killed: each test has its own, and they run one after the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.inbox import Inbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here needs Ray, so none is fast."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """A receiver of webhooks on loopback."""
    receiver = Inbox()
    receiver.start()
    yield receiver
    receiver.stop()
