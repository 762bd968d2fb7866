"""The command `florence` as a user types it."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
import yaml
from PIL import Image

from deployments.jobs.sqlite import SqliteStore
from deployments.local.config import LAPTOP, merge, read_yaml, serve_config
from deployments.local.haproxy import private_haproxy
from deployments.local.ports import free_port
from deployments.local.state import StateFolder
from deployments.ray_compat import ENABLE_HAPROXY
from deployments.settings import QueueSettings
from tests.acceptance.caller import PROPOSAL, Caller, encoded, scene, uri

FLORENCE = [sys.executable, "-m", "deployments.cli"]
# Else `serve run` takes the Ray that was started last on this machine, dead or alive.
OWN_RAY = {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}


def florence(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [*FLORENCE, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"COLUMNS": "200"} | environment,
    )


@contextmanager
def serving(log: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """`florence serve` until the end of the block; yields what it printed when it was ready."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [*FLORENCE, "serve", "--port", "0", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    try:
        deadline = time.monotonic() + 120
        while "fal-client" not in (text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
        yield log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three scenes and a text file."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        scene(number, (256, 256)).image.save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_predict_prints_a_table_and_writes_pictures(
    caller: Caller, state: StateFolder, pictures: Path, tmp_path: Path
) -> None:
    """A folder of images becomes rows of boxes and annotated pictures."""
    done = florence(
        "predict", str(pictures), "--url", caller.url, "--state", str(state.folder),
        "--out", str(tmp_path / "out"),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert all(f"{number}.png" in done.stdout for number in range(3))
    with Image.open(tmp_path / "out" / "1.annotated.jpg") as picture:
        assert picture.size == (256, 256)


def test_predict_reports_each_failed_image_and_does_the_others(
    caller: Caller, pictures: Path
) -> None:
    """One clear line for each failure, exit code 1, and answers for the rest."""
    images = [str(pictures / "0.png"), str(pictures / "notes.txt"), "gone.png", "http://127.0.0.1/"]
    done = florence("predict", *images, "--url", caller.url, "--key", caller.key, "--json")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    complaints = done.stderr.strip().splitlines()

    assert done.returncode == 1
    assert [answer["input"] for answer in answers] == [images[0]]
    assert [line.partition(": ")[0] for line in complaints] == images[1:]
    assert "Traceback" not in done.stderr


def test_predict_without_a_service(pictures: Path) -> None:
    """A service that is not there is one line, not a traceback."""
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    done = florence("predict", str(pictures / "0.png"), "--url", url, "--key", "k")

    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no answer from" in done.stderr


def test_predict_with_a_wrong_key(caller: Caller, pictures: Path) -> None:
    """A refused key is reported for the image."""
    done = florence("predict", str(pictures / "0.png"), "--url", caller.url, "--key", "wrong")

    assert done.returncode == 1
    assert "401" in done.stderr


WRONG = {
    "unknown setting": (["--set", "inference.max_batchsize=4"], "inference.max_batchsize"),
    "wrong value": (["--set", "inference.max_batch_size=many"], "inference.max_batch_size"),
    "no value": (["--set", "inference.max_batch_size"], "PATH=VALUE"),
    "missing model folder": (["--model", "/no/such/folder"], "no checkpoint folder"),
    "empty model folder": (["--model", "."], "no checkpoint of Florence-2"),
    "remote code": (["--model", "microsoft/Florence-2-base"], "florence-community/Florence-2-base"),
    "unknown device": (["--device", "tpu"], "model.device"),
    "no GPU": (["--device", "cuda"], "CUDA"),
    "unwritable state": (["--state", "/proc/florence"], "--state"),
    "port out of range": (["--port", "99999"], "--port"),
    "no database": (["--store", "postgresql://127.0.0.1:1/florence"], "postgresql"),
    "unknown store": (["--store", "mysql://127.0.0.1/florence"], "store.url"),
    "unwritable queue": (["--store", "sqlite:////proc/queue.db"], "/proc/queue.db"),
    "two queues": (["--store", "sqlite:///queue.db", "--ephemeral"], "--ephemeral"),
    "no such bucket scheme": (["--files", "ftp://bucket"], "files.root"),
    "not our address": (["--host", "192.0.2.1"], "--host"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setup_is_one_line(name: str, tmp_path: Path) -> None:
    """What is wrong and what to do, exit code 2, no traceback."""
    flags, words = WRONG[name]
    state = [] if "--state" in flags else ["--state", str(tmp_path)]
    port = [] if "--port" in flags else ["--port", "0"]
    done = florence("serve", *port, *state, *flags)
    lines = done.stderr.strip().splitlines()

    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert words in lines[0]


def test_a_queue_in_use_is_one_line(tmp_path: Path) -> None:
    """Two services on one file would be two owners."""
    (tmp_path / "state").mkdir()
    file = tmp_path / "state" / "queue.db"
    store = SqliteStore.open(file, QueueSettings(), is_owner=True)
    done = florence("serve", "--port", "0", "--state", str(tmp_path / "state"))
    asyncio.run(store.close())

    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "another service has it open" in done.stderr


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """A port that another listens on is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = florence("serve", "--port", port, "--state", str(tmp_path))

    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"127.0.0.1:{port}" in done.stderr


def test_serve_twice_on_one_state(tmp_path: Path) -> None:
    """Ctrl-C leaves no process and loses no picture; the next start, with TLS, knows the key.

    While it runs, `florence top` finds it without an address.
    """
    home = {"XDG_STATE_HOME": str(tmp_path)}
    state = StateFolder(tmp_path / "florence")
    photograph = uri(encoded(scene(1).image.resize((4000, 3000)), "JPEG"), "image/jpeg")

    with serving(tmp_path / "first", **home) as printed:
        assert "florence top" in florence("top", "--window", "1", **home).stdout
        url, key = base_url(printed), api_key(printed)
        with httpx2.Client(timeout=60) as http, ThreadPoolExecutor(8) as threads:
            caller = Caller(url, key, http)
            answers = list(threads.map(caller.send, [photograph] * 8))

    names = {answer.json()["image"]["file_name"] for answer in answers}
    assert names == {path.name for path in state.files.rglob("*.jpg")}
    assert_nothing_is_left(tmp_path / "first", state, url)
    assert key not in (state.folder / "keys.json").read_text()

    with serving(tmp_path / "second", "--tls", **home) as printed:
        assert api_key(printed) == key
        assert_tls_works(printed, state)


def assert_nothing_is_left(log: Path, state: StateFolder, url: str) -> None:
    """The port is closed, Ray said nothing, and nothing says that a service runs."""
    assert "raylet" not in log.read_text()
    assert not state.targets.exists()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health")


def assert_tls_works(printed: str, state: StateFolder) -> None:
    """The curl line works as it is, and both host names are in the private CA's certificate."""
    curl = re.search(r"^  (curl .*)$", printed, re.MULTILINE)
    assert curl
    answer = subprocess.run(curl[1], shell=True, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["results"]["bboxes"]
    trusted = ssl.create_default_context(cafile=state.tls / "ca.pem")
    port = base_url(printed).rpartition(":")[2]
    for host in ("localhost", "127.0.0.1"):
        assert httpx2.get(f"https://{host}:{port}/health", verify=trusted).status_code == 200
    assert f"SSL_CERT_FILE={state.tls / 'ca.pem'}" in printed
    assert oct((state.tls / "ca.key").stat().st_mode & 0o777) == "0o600"


def base_url(printed: str) -> str:
    """The address that `florence serve` has printed."""
    return str(re.findall(r"Base URL  (\S+)", printed)[0])


def api_key(printed: str) -> str:
    """The key that `florence serve` has printed."""
    return str(re.findall(r"API key   (\S+)", printed)[0])


@pytest.mark.parametrize(
    ("after_s", "number"), [(1, signal.SIGINT), (4, signal.SIGTERM), (7, signal.SIGINT)]
)
def test_serve_can_be_stopped_while_it_starts(
    tmp_path: Path, after_s: float, number: signal.Signals
) -> None:
    """Wherever its start is interrupted, nothing is left behind and no traceback is shown."""
    command = [*FLORENCE, "serve", "--port", "0", "--state", str(tmp_path / "state")]
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        time.sleep(after_s)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.wait(60)
    _, left = psutil.wait_procs(started, timeout=5)

    assert left == []
    assert "Traceback" not in log.read_text()


def test_serve_run_starts_the_same_application(tmp_path: Path) -> None:
    """Ray's own `serve run` takes the YAML; here with the laptop's values, as there is no GPU.

    HAProxy stands in front as in production, with ports and files of its own.
    """
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    with private_haproxy() as front, (tmp_path / "log").open("w") as log:
        file = write_config(tmp_path, int(url.rpartition(":")[2]), front)
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("serve")), "run", str(file)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"FLORENCE_API_KEY": "k", ENABLE_HAPROXY: "0"} | OWN_RAY,
        )
        try:
            wait_until_ready(process, url, tmp_path / "log")
            body = {"image_url": uri(scene(0).image)}
            answer = httpx2.post(url + PROPOSAL, json=body, headers={"Authorization": "Key k"})
            started = psutil.Process(process.pid).children(recursive=True)
            names = {member.name() for member in started}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)

    assert answer.json()["results"]["bboxes"]
    assert "haproxy" in names  # what the YAML says reaches every process of Serve


def write_config(folder: Path, port: int, front: dict[str, str]) -> Path:
    """serve_config.yaml with the laptop's values, all that it keeps in `folder`."""
    args = {
        "files": {"root": str(folder / "files")},
        "store": {"url": f"sqlite:///{folder / 'queue.db'}"},
        "webhooks": {"keys": str(folder / "webhooks")},
    }
    own = {
        "http_options": {"port": port},
        "controller_options": {"runtime_env": {"env_vars": front}},
        "applications": [{"name": "florence", "args": args}],
    }
    config = merge(merge(read_yaml(serve_config()), read_yaml(LAPTOP)), own)
    for deployment in config["applications"][0]["deployments"]:
        deployment.pop("autoscaling_config", None)
    file = folder / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Wait for /ready, for at most two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx2.get(f"{url}/ready", timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_the_demo_finds_the_shapes(tmp_path: Path) -> None:
    """`florence demo` writes its four files for each scene, exits 0, and Ray says nothing."""
    done = florence("demo", "--seed", "7", "--out", str(tmp_path))
    names = {file.name for file in tmp_path.iterdir()}
    answer = json.loads((tmp_path / "result-1.json").read_text())
    truth = json.loads((tmp_path / "truth-1.json").read_text())

    assert done.returncode == 0, done.stdout + done.stderr
    assert "raylet" not in done.stdout + done.stderr
    assert names == {
        f"{kind}-{number}.{suffix}"
        for number in (1, 2, 3)
        for kind, suffix in (
            ("scene", "png"),
            ("annotated", "png"),
            ("result", "json"),
            ("truth", "json"),
        )
    }
    assert set(answer) == {"results", "image"}
    assert set(truth["bboxes"][0]) == {"x", "y", "w", "h", "label"}
    assert "seed 7" in done.stdout
