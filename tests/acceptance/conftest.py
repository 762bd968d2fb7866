"""One Ray and one service for the whole session, started the way `florence serve` starts it."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from deployments.local.config import local_profile, parse_sets, read_yaml, serve_config
from deployments.local.launch import launch
from deployments.local.state import StateFolder
from deployments.local.tls import certificates
from tests.acceptance.caller import Caller, encoded, scene
from tests.acceptance.observed import Observed
from tests.acceptance.origin import Origin
from tests.acceptance.receiver import Receiver
from tests.acceptance.tls_proxy import TlsProxy
from tests.florence.adapter_folders import write_adapter

MAX_BYTES = 4 * 1024 * 1024
SETTINGS = (
    f"preprocess.max_bytes={MAX_BYTES}",
    "preprocess.fetch_timeout_s=6",
    "ingress.max_body_bytes=8388608",
    "inference.max_queue=24",
    "tracing.exporter=file",
    "webhooks.span_s=77",  # the first gaps are 0.2, 0.8 and 1.8 s
)


@pytest.fixture(scope="session")
def origin() -> Iterator[Origin]:
    """A web server on loopback, which the service is allowed to fetch from."""
    server = Origin(encoded(scene(0).image, "PNG"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback, which the service is allowed to post to."""
    server = Receiver()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> StateFolder:
    """The service's state folder."""
    return StateFolder(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """The service's logs and traces."""
    folder = tmp_path_factory.mktemp("observed")
    return Observed(folder / "logs", folder / "traces")


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the demo, of which the service knows by the name `loud`."""
    folder = tmp_path_factory.mktemp("adapters") / "loud"
    write_adapter(folder, loudness=4.0)
    return folder


@pytest.fixture(scope="session")
def storm_address() -> str:
    """Where the load test receives webhooks later: outside the ephemeral ports."""
    return f"127.0.0.1:{random.randrange(20_000, 32_000)}"


@pytest.fixture(scope="session")
def caller(
    state: StateFolder,
    origin: Origin,
    receiver: Receiver,
    storm_address: str,
    observed: Observed,
    adapter_folder: Path,
) -> Iterator[Caller]:
    """The running service and a client of it."""
    here = (
        f"preprocess.allowed_hosts=['127.0.0.1:{origin.port}']",
        f"webhooks.allowed_hosts=['127.0.0.1:{receiver.port}', '{storm_address}']",
        f"tracing.folder={observed.traces}",
        f"model.adapters.loud={adapter_folder}",
    )
    args = parse_sets([*SETTINGS, *here])
    profile = local_profile(state, "127.0.0.1", 0, args, tls=False)
    logging = read_yaml(serve_config())["logging_config"] | {"logs_dir": str(observed.logs)}
    profile = replace(profile, logging=logging)
    with launch(profile), httpx2.Client(timeout=60, trust_env=False) as http:
        yield Caller(profile.base_url, state.api_key(), http)


@pytest.fixture(scope="session")
def front(caller: Caller, state: StateFolder) -> Iterator[TlsProxy]:
    """The running service behind TLS."""
    server = TlsProxy(certificates(state.tls), int(caller.url.rpartition(":")[2]))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first scene as a file."""
    file = tmp_path_factory.mktemp("images") / "scene.png"
    file.write_bytes(encoded(scene(0).image, "PNG"))
    return file
