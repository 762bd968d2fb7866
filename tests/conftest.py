"""Fixtures that more than one part of the tests needs."""

import gc
import signal
import urllib.request
from collections.abc import Iterator, Set
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings

settings.register_profile("tests", deadline=None)  # speed is never a test, and machines are shared
settings.load_profile("tests")
TESTS = Path(__file__).parent
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so it is below a shell's `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands under test inherit it


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 service on this machine."""
    from moto.server import ThreadedMotoServer  # takes a second, which few runs need

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, with the environment to reach it."""
    name = f"b{uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3}/{name}", method="PUT")).close()
    for variable, value in {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3,
    }.items():
        monkeypatch.setenv(variable, value)
    return name


RAY = {"acceptance", "chaos", "scaling"}  # folders whose tests start Ray, and need both cores
SLOW = RAY | {"browser", "demo", "k8s", "loadtest"}  # what lies beside the service, and its page
WITHOUT_RAY = {"test_clients"}  # of tests/chaos
LEFT_OUT = {"not slow": SLOW, "not alone": RAY}  # by the `-m` of a run


def pytest_configure() -> None:
    """Imports leave no garbage worth a search."""
    gc.disable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no module of which no test is asked for."""
    left_out = LEFT_OUT.get(config.option.markexpr, set())
    return (collection_path.suffix == ".py" and is_slow(collection_path, left_out)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out, and what `make test` runs alone."""
    for item in items:
        is_alone = is_slow(item.path, RAY)
        if item.get_closest_marker("alone") and not is_alone:
            raise pytest.UsageError(f"{item.nodeid}: `make test` runs such tests of {RAY} only")
        if is_slow(item.path) or needs_postgres(item):
            item.add_marker(pytest.mark.slow)
        if is_alone:
            item.add_marker(pytest.mark.alone)


def is_slow(module: Path, folders: Set[str] = SLOW) -> bool:
    """Whether all tests of a module are slow, for it lies in one of `folders`."""
    return module.relative_to(TESTS).parts[0] in folders and module.stem not in WITHOUT_RAY


def needs_postgres(item: pytest.Item) -> bool:
    """Whether a test asks for the server, which takes its time, or has it as a parameter."""
    asked = getattr(item, "fixturenames", ())
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return "postgres" in asked or any(type(value) is str and value == "postgres" for value in given)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what stays anyway: modules, torch, thousands of tests.

    It took a quarter of the fast tests, and finds little in what they leave.
    """
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    gc.enable()
