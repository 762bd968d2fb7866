"""HAProxy in front, as on a cluster: the same protocol, and nothing more within reach."""

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from PIL import Image

from tests.acceptance.caller import APP, Caller, scene, uri
from tests.acceptance.origin import Origin
from tests.acceptance.test_commands import api_key, base_url, serving
from tests.acceptance.test_failures import hang_up

KEY = "my-own-key"
BODY = {"image_url": uri(scene(3, (256, 256)).image)}


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Caller]:
    """One service for the tests of this file, with a key of our own; the last test stops it."""
    folder = tmp_path_factory.mktemp("haproxy")
    allowed = f"preprocess.allowed_hosts=['127.0.0.1:{origin.port}']"
    flags = ("--haproxy", "--state", str(folder / "state"), "--set", allowed)
    http = httpx2.Client(timeout=60, trust_env=False)
    with serving(folder / "log", *flags, FLORENCE_API_KEY=KEY) as printed, http:
        yield Caller(base_url(printed), api_key(printed), http)


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
    submitted = fronted.post(BODY, f"/queue{APP}/region-proposal").json()
    stream = f"{submitted['status_url']}/stream"
    with fronted.http.stream("GET", stream, headers=fronted.authorization) as events:
        lines = [line for line in events.iter_lines() if line]
    status = fronted.http.get(submitted["status_url"], headers=fronted.authorization).json()
    result = fronted.http.get(submitted["response_url"], headers=fronted.authorization).json()

    assert '"COMPLETED"' in lines[-1]
    assert status["status"] == "COMPLETED"
    assert result["results"] == fronted.post(BODY).json()["results"]


def test_a_large_body(fronted: Caller) -> None:
    """HAProxy's buffers hold 16 kB, and bodies are longer."""
    noise = uri(Image.effect_noise((2000, 2000), 90))
    assert len(noise) > 4_000_000
    assert fronted.post({"image_url": noise}).status_code == 200


def test_a_disconnect_cancels_the_run(fronted: Caller, origin: Origin) -> None:
    """HAProxy passes the hanging up on."""
    hang_up(fronted, origin, after_s=1)


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


def test_a_key_can_be_given(fronted: Caller) -> None:
    """It comes from the environment."""
    assert fronted.key == KEY


def test_it_leaves_nothing_behind(fronted: Caller) -> None:
    """Ctrl-C under load ends every process within seconds, and its folder is gone."""
    answered = threading.Event()

    def ask() -> None:
        while True:
            try:
                fronted.post(BODY)
            except httpx2.HTTPError:
                return
            answered.set()

    service = serve_process(fronted.url)
    started = [service, *service.children(recursive=True)]
    folders = {Path(process.cmdline()[3]).parents[1] for process in haproxies(started)}
    client = threading.Thread(target=ask)
    client.start()
    assert answered.wait(30)
    began = time.monotonic()
    service.send_signal(signal.SIGINT)
    psutil.wait_procs(started, timeout=15)
    took_s = time.monotonic() - began
    client.join()

    assert folders
    assert not any(is_alive(process) for process in started)
    assert not any(folder.exists() for folder in folders)
    assert took_s < 15


def serve_process(url: str) -> psutil.Process:
    """The process `florence serve` whose HAProxy answers at `url`."""
    port = int(url.rpartition(":")[2])
    for child in psutil.Process().children():
        members = haproxies(child.children(recursive=True))
        if any(found.laddr.port == port for each in members for found in each.net_connections()):
            return child
    raise AssertionError(f"no service answers at {url}")


def is_alive(process: psutil.Process) -> bool:
    """Whether it can still do anything; a zombie waits to be reaped by the fixture."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
