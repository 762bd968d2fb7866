"""`florence serve` twice on one state: first behind HAProxy until Ctrl-C, then with TLS."""

import http.client
import json
import re
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
from PIL import Image

from deployments.local.state import StateFolder
from tests.acceptance.caller import APP, PROPOSAL, Caller, encoded, scene, uri
from tests.acceptance.command import FLORENCE, Serving, florence, interrupt, serving
from tests.acceptance.replicas import cpu_seconds, replicas, wait_until_idle

STOP_S = 15.0
DEADLINE_S = 60.0
LONG = ("--set", "inference.min_new_tokens=400", "--set", "inference.num_beams=16")
BODY = {"image_url": uri(scene(3, (256, 256)).image), "num_beams": 1}
SLOW = BODY | {"num_beams": 16}


@dataclass(frozen=True)
class Ending:
    """What a service that was stopped under load has left."""

    promised: set[str]  # the pictures that were named in answers
    processes: list[psutil.Process]
    haproxys_folders: list[Path]
    log: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's state folder, in which the service has its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> Iterator[Serving]:
    """The first start; `ending` stops it."""
    log = home / "first.log"
    with serving(log, "--haproxy", *LONG, XDG_STATE_HOME=str(home)) as started:
        yield started


@pytest.fixture(scope="module")
def fronted(first: Serving) -> Iterator[Caller]:
    """A client of the first start."""
    with httpx2.Client(timeout=60, trust_env=False) as http:
        yield Caller(first.url, first.key, http)


@pytest.fixture(scope="module")
def ending(home: Path, first: Serving, fronted: Caller) -> Ending:
    """Ctrl-C while a client goes on asking, and pictures are still drawn."""
    photograph = uri(encoded(scene(1).image.resize((4000, 3000)), "JPEG"), "image/jpeg")
    body = BODY | {"image_url": photograph}
    processes = [first.process, *first.process.children(recursive=True)]
    folders = [Path(each.cmdline()[3]).parents[1] for each in haproxies(processes)]
    with asking(fronted), ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(fronted.post, [body] * 4))
        interrupt(first.process.pid)
        psutil.wait_procs(processes, timeout=STOP_S)
    promised = {answer.json()["image"]["file_name"] for answer in answers}
    return Ending(promised, processes, folders, (home / "first.log").read_text())


@contextmanager
def asking(caller: Caller) -> Iterator[None]:
    """Ask again and again until there is no service; it has answered once before the block."""
    answered = threading.Event()

    def ask() -> None:
        while True:
            try:
                caller.post(BODY)
            except httpx2.HTTPError:
                return
            answered.set()

    client = threading.Thread(target=ask)
    client.start()
    assert answered.wait(DEADLINE_S)
    yield
    client.join()


@pytest.fixture(scope="module")
def second(home: Path, ending: Ending) -> Iterator[Serving]:
    """The next start on the same state, with TLS."""
    with serving(home / "second.log", "--tls", XDG_STATE_HOME=str(home)) as started:
        yield started


def haproxies(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of the processes that are HAProxy."""
    return [process for process in processes if process.name() == "haproxy"]


def is_alive(process: psutil.Process) -> bool:
    """Whether it can still do anything; a zombie waits to be reaped by the fixture."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_run_and_its_picture_behind_haproxy(fronted: Caller) -> None:
    """The boxes, and the annotated picture at the address that the answer names."""
    answer = fronted.post(BODY).json()
    picture = fronted.http.get(answer["image"]["url"])

    assert answer["results"]["bboxes"]
    assert answer["image"]["url"].startswith(fronted.url)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")


def test_a_queued_request_to_its_result_behind_haproxy(fronted: Caller) -> None:
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


def test_haproxy_takes_a_large_body(fronted: Caller) -> None:
    """Its buffers hold 16 kB, and bodies are longer."""
    noise = uri(Image.effect_noise((2000, 2000), 90))
    assert len(noise) > 4_000_000
    assert fronted.post(BODY | {"image_url": noise}).status_code == 200


def test_the_model_stops_when_its_caller_disconnects(first: Serving, fronted: Caller) -> None:
    """After a tenth of a run's processor time it costs less than half; HAProxy passes it on."""
    model = replicas("Inference", first.process)
    fronted.post(BODY)  # so that the first run's own work is done
    before = cpu_seconds(model)
    fronted.post(SLOW)
    whole_s = cpu_seconds(model) - before

    before, deadline = cpu_seconds(model), time.monotonic() + DEADLINE_S
    with asked(fronted, SLOW):
        while cpu_seconds(model) - before < whole_s / 10:
            assert time.monotonic() < deadline, "the model does not begin"
            time.sleep(0.01)
    wait_until_idle(model)
    assert cpu_seconds(model) - before < whole_s / 2


@contextmanager
def asked(caller: Caller, body: dict[str, object]) -> Iterator[None]:
    """A run whose caller disconnects after the block."""
    parts = urlsplit(caller.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    headers = caller.authorization | {"Content-Type": "application/json"}
    connection.request("POST", PROPOSAL, json.dumps(body), headers)
    yield
    connection.close()


def test_haproxy_listens_on_loopback_alone(first: Serving, fronted: Caller) -> None:
    """Its statistics and metrics are not for the network, whatever Serve says."""
    listening = {
        (found.laddr.ip, found.laddr.port)
        for process in haproxies(first.process.children(recursive=True))
        for found in process.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", int(fronted.url.rpartition(":")[2])) in listening
    assert len(listening) == 3
    assert {ip for ip, _ in listening} == {"127.0.0.1"}


def test_top_finds_the_service_without_an_address(first: Serving, home: Path) -> None:
    """The service has written where its metrics are."""
    assert "florence top" in florence("top", "--window", "1", XDG_STATE_HOME=str(home)).stdout


def test_ctrl_c_ends_every_process(ending: Ending) -> None:
    """Also under load, within seconds."""
    assert [process for process in ending.processes if is_alive(process)] == []


def test_ctrl_c_loses_no_picture(ending: Ending, home: Path) -> None:
    """Those that answers have named were drawn and stored before the end."""
    stored = {file.name for file in StateFolder(home / "florence").files.rglob("*.jpg")}
    assert len(ending.promised) == 4
    assert ending.promised - stored == set()


def test_ctrl_c_leaves_nothing_of_haproxy(ending: Ending) -> None:
    """Its folder is gone."""
    assert [folder.exists() for folder in ending.haproxys_folders] == [False]


def test_after_ctrl_c_nothing_says_that_a_service_runs(
    ending: Ending, first: Serving, home: Path
) -> None:
    """The port is closed, and Ray did not complain."""
    assert "raylet" not in ending.log
    assert not StateFolder(home / "florence").targets.exists()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{first.url}/health")


def test_the_next_start_has_the_same_key(first: Serving, second: Serving) -> None:
    """Clients go on with the key that they have."""
    assert first.key == second.key


def test_the_curl_line_works_as_it_is(second: Serving) -> None:
    """It trusts the private authority."""
    curl = re.search(r"^  (curl .*)$", second.printed, re.MULTILINE)
    assert curl
    answer = subprocess.run(curl[1], shell=True, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["results"]["bboxes"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_certificate_is_good_for_both_names(second: Serving, home: Path, host: str) -> None:
    """Clients that trust the authority that is printed can verify it."""
    authority = StateFolder(home / "florence").tls / "ca.pem"
    trusted = ssl.create_default_context(cafile=authority)
    port = second.url.rpartition(":")[2]

    assert f"SSL_CERT_FILE={authority}" in second.printed
    assert httpx2.get(f"https://{host}:{port}/health", verify=trusted).status_code == 200


def has_child(process: psutil.Process, words: str) -> bool:
    """Whether it has started a process with these words in its command line."""
    with suppress(psutil.NoSuchProcess):
        children = process.children(recursive=True)
        return any(words in " ".join(child.cmdline()) for child in children)
    return False


BEGUN: dict[str, Callable[[Path, psutil.Process], bool]] = {
    "its checks": lambda state, _: (state / "queue.db").exists(),
    "Ray": lambda _, process: has_child(process, "raylet"),
    "the model": lambda _, process: has_child(process, "florence:Inference"),
}


@pytest.mark.parametrize(
    ("begun", "number"),
    [("its checks", signal.SIGINT), ("Ray", signal.SIGTERM), ("the model", signal.SIGHUP)],
)
def test_serve_can_be_stopped_while_it_starts(
    tmp_path: Path, begun: str, number: signal.Signals
) -> None:
    """Wherever its start is interrupted, nothing is left behind and no traceback is shown."""
    state, log = tmp_path / "state", tmp_path / "log"
    with log.open("w") as out:
        command = [*FLORENCE, "serve", "--port", "0", "--state", str(state)]
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        member, deadline = psutil.Process(process.pid), time.monotonic() + DEADLINE_S
        while not BEGUN[begun](state, member):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"it does not begin {begun}"
            time.sleep(0.05)
        started = member.children(recursive=True)
        interrupt(process.pid, number)
        process.wait(DEADLINE_S / 2)
    _, left = psutil.wait_procs(started, timeout=5)

    assert left == []
    assert "Traceback" not in log.read_text()
