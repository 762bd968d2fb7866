"""One installation for all drills, and a receiver of webhooks for every test."""

from collections.abc import Iterator

import pytest

from tests.chaos.crowd import MAX_ATTEMPTS
from tests.chaos.inbox import Inbox
from tests.chaos.installation import Installation, installation

SINGLE = ("Preprocess", "Inference", "Postprocess", "Dispatcher")


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


@pytest.fixture(scope="module")
def whole(inbox: Inbox) -> Iterator[Installation]:
    """One installation for all: what was mended is broken again.

    Where a deployment's only replica is lost or replaced, its callers wait for the next.
    """
    webhooks = {"allowed_hosts": [f"127.0.0.1:{inbox.port}"], "timeout_s": 5, "span_s": 60}
    # So few run that others wait.
    queue = {"lease_s": 5, "max_running": 4, "max_attempts": MAX_ATTEMPTS}
    application = {
        "args": {"webhooks": webhooks, "queue": queue},
        "deployments": [{"name": name, "num_replicas": 1} for name in SINGLE],
    }
    with installation(application=application) as found:
        yield found
