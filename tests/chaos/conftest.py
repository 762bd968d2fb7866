"""One installation for all drills, and a receiver of webhooks for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.inbox import Inbox
from tests.chaos.installation import Installation, installation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here but those of the clients needs Ray, so none is fast."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.stem != "test_clients":
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def inbox() -> Iterator[Inbox]:
    """A receiver of webhooks on loopback."""
    receiver = Inbox()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="session")
def whole(inbox: Inbox) -> Iterator[Installation]:
    """One installation for all: what was mended is broken again."""
    webhooks = {"allowed_hosts": [f"127.0.0.1:{inbox.port}"], "timeout_s": 5, "span_s": 60}
    with installation(args={"webhooks": webhooks, "queue": {"lease_s": 5}}) as found:
        yield found
