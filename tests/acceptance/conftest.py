"""One Ray and one service for the whole session, started the way `florence serve` starts it."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from deployments.cli.profile import tree_of
from deployments.cli.serve import local_profile
from deployments.cli.service import running
from deployments.cli.state import State
from tests.acceptance.caller import Caller, encoded, scene
from tests.acceptance.origin import Origin

MAX_BYTES = 4 * 1024 * 1024
SETTINGS = (
    f"preprocess.max_bytes={MAX_BYTES}",
    "preprocess.fetch_timeout_s=1.5",
    "preprocess.connect_timeout_s=1",
    "ingress.max_body_bytes=8388608",
    "inference.max_queue=24",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here needs Ray, so none is fast."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def origin() -> Iterator[Origin]:
    """A web server on loopback, which the service is allowed to fetch from."""
    server = Origin(encoded(scene(0).image, "PNG"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The service's state folder."""
    return State(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def caller(state: State, origin: Origin) -> Iterator[Caller]:
    """The running service and a client of it."""
    allowed = f"preprocess.allowed_hosts=['127.0.0.1:{origin.port}']"
    args = tree_of([*SETTINGS, allowed])
    profile = local_profile(state, "127.0.0.1", 0, args, tls=False)
    with running(profile), httpx2.Client(timeout=60, trust_env=False) as http:
        yield Caller(profile.base_url, state.api_key(), http)
