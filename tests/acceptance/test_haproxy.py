"""HAProxy in front, as on a cluster: the same protocol, and nothing more within reach."""

import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
from PIL import Image

from tests.acceptance.caller import APP, Caller, scene, uri
from tests.acceptance.origin import Origin
from tests.acceptance.test_commands import serving
from tests.acceptance.test_failures import num_answered

BODY = {"image_url": uri(scene(3, (256, 256)).image)}


@contextmanager
def behind_haproxy(folder: Path, *flags: str) -> Iterator[Caller]:
    """`florence serve --haproxy` for as long as the block runs, and a client of it."""
    flags = ("--haproxy", "--state", str(folder / "state"), *flags)
    http = httpx2.Client(timeout=60, trust_env=False)
    with serving(folder / "log", *flags) as said, http:
        [url], [key] = (re.findall(rf"{name} +(\S+)", said) for name in ("Base URL", "API key"))
        yield Caller(url, key, http)


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Caller]:
    """One service for the tests of this file."""
    folder = tmp_path_factory.mktemp("haproxy")
    allowed = f"preprocess.allowed_hosts=['127.0.0.1:{origin.port}']"
    with behind_haproxy(folder, "--set", allowed) as caller:
        yield caller


def haproxies(members: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of the processes that are HAProxy."""
    return [member for member in members if member.name() == "haproxy"]


def test_a_run_and_its_picture(fronted: Caller) -> None:
    """The boxes, and the annotated picture at the address that the answer names."""
    answer = fronted.post(BODY).json()
    picture = fronted.http.get(answer["image"]["url"])

    assert answer["results"]["bboxes"]
    assert answer["image"]["url"].startswith(fronted.url)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")


def test_a_queued_request_to_its_result(fronted: Caller) -> None:
    """Submit, the event stream until it is done, status, result."""
    told = fronted.post(BODY, f"/queue{APP}/region-proposal").json()
    stream = f"{told['status_url']}/stream"
    with fronted.http.stream("GET", stream, headers=fronted.authorization) as events:
        lines = [line for line in events.iter_lines() if line]
    status = fronted.http.get(told["status_url"], headers=fronted.authorization).json()
    result = fronted.http.get(told["response_url"], headers=fronted.authorization).json()

    assert '"COMPLETED"' in lines[-1]
    assert status["status"] == "COMPLETED"
    assert result["results"] == fronted.post(BODY).json()["results"]


def test_a_large_body(fronted: Caller) -> None:
    """HAProxy's buffers hold 16 kB, and bodies are longer."""
    noise = uri(Image.effect_noise((2000, 2000), 90))
    assert len(noise) > 4_000_000
    assert fronted.post({"image_url": noise}).status_code == 200


def test_a_caller_who_hangs_up_is_let_go(fronted: Caller, origin: Origin) -> None:
    """HAProxy passes the hanging up on."""
    before = num_answered(fronted, 499)
    impatient = httpx2.Client(timeout=1, trust_env=False)
    with impatient, pytest.raises(httpx2.ReadTimeout):
        Caller(fronted.url, fronted.key, impatient).send(f"{origin.url}/hangs")
    deadline = time.monotonic() + 10
    while num_answered(fronted, 499) == before:
        assert time.monotonic() < deadline, "the run goes on"
        time.sleep(0.1)


def test_it_listens_on_loopback_alone(fronted: Caller) -> None:
    """Its statistics and metrics are not for the network, whatever Serve says."""
    listening = {
        (found.laddr.ip, found.laddr.port)
        for process in haproxies(psutil.Process().children(recursive=True))
        for found in process.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", int(fronted.url.rpartition(":")[2])) in listening
    assert len(listening) == 3
    assert {ip for ip, _ in listening} == {"127.0.0.1"}


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C under load ends every process within seconds, and its folder is gone."""
    before = set(psutil.Process().children(recursive=True))
    answered = threading.Event()

    def ask(caller: Caller) -> None:
        while True:
            try:
                caller.post(BODY)
            except httpx2.HTTPError:
                return
            answered.set()

    with behind_haproxy(tmp_path) as caller:
        started = set(psutil.Process().children(recursive=True)) - before
        folders = {Path(process.cmdline()[3]).parents[1] for process in haproxies(started)}
        client = threading.Thread(target=ask, args=(caller,))
        client.start()
        assert answered.wait(30)
        began = time.monotonic()
    took_s = time.monotonic() - began
    client.join()

    assert not any(process.is_running() for process in started)
    assert not any(folder.exists() for folder in folders)
    assert took_s < 15
