"""The service on a cluster of several nodes, deployed by tests/scaling/deploy.py."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx2
import psutil
from PIL import Image

from deployments.local.config import compose, merge, without_nulls
from deployments.ray_compat import ONE_MACHINE
from deployments.settings import hash_key
from tests.acceptance.caller import APP, PROPOSAL, uri
from tests.scaling.cluster import ROOT, free_port

KEY = "a key for the cluster"
TIMEOUT_S = 180
Tree = dict[str, Any]


class Observer:
    """The states that the deploying process prints."""

    def __init__(self, lines: IO[str]) -> None:
        self.seen: list[dict[str, float]] = []
        self._lines = lines
        self._is_over = False

    def follow(self) -> None:
        """Read until the process ends."""
        for line in self._lines:
            if line.startswith("{"):  # Ray prints there too, as of a node that was lost
                self.seen.append(json.loads(line))
        self._is_over = True

    def wait_for(self, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """Wait for the next state that fulfils `holds`."""
        begun, deadline = len(self.seen), time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline and not self._is_over:
            for standing in self.seen[begun:]:
                if holds(standing):
                    return standing
            time.sleep(0.1)
        raise AssertionError(f"it never came to that: {self.seen[-5:]}")

    def most(self, what: str) -> float:
        """The largest value of `what` so far."""
        return max(standing[what] for standing in self.seen)


class Service:
    """A client of the running service, and of the process that deployed it."""

    def __init__(
        self, url: str, http: httpx2.Client, observer: Observer, commands: IO[str]
    ) -> None:
        self.observer = observer
        self._url = url
        self._http = http
        self._commands = commands

    def run(self, image: Image.Image | str) -> httpx2.Response:
        """The response to a synchronous run on an image or a URL."""
        image_url = image if isinstance(image, str) else uri(image)
        return self._http.post(self._url + PROPOSAL, json={"image_url": image_url})

    def submit(self, image: Image.Image) -> str:
        """Submit a job; its id."""
        url = f"{self._url}/queue{PROPOSAL}"
        answer = self._http.post(url, json={"image_url": uri(image)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def status(self, name: str) -> str:
        """IN_QUEUE, IN_PROGRESS or COMPLETED."""
        answer = self._http.get(f"{self._url}/queue{APP}/requests/{name}/status")
        return str(answer.json()["status"])

    def result(self, name: str) -> httpx2.Response:
        """Wait for a job; its result."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.status(name) != "COMPLETED":
            assert time.monotonic() < deadline, f"{name} is not done"
            time.sleep(0.5)
        return self._http.get(f"{self._url}/queue{APP}/requests/{name}")

    def lose_a_node(self) -> None:
        """Kill a node with all its processes."""
        self._commands.write("\n")
        self._commands.flush()


@contextmanager
def deployed(
    access: Mapping[str, str], folder: Path, options: Mapping[str, Tree], args: Tree
) -> Iterator[Service]:
    """The local service with other options of its deployments, and `args` for settings.

    `access` is the cluster's.
    """
    port = free_port()
    file = folder / "profile.json"
    file.write_text(json.dumps(profile(folder, port, options, args)))
    (folder / "ray").mkdir()  # Ray notes there which cluster is the current one
    own = {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.scaling.deploy", str(file)],
        cwd=ROOT,
        env=os.environ | access | ONE_MACHINE | own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    observer = Observer(process.stdout)
    authorization = {"Authorization": f"Key {KEY}"}
    client = httpx2.Client(timeout=TIMEOUT_S, trust_env=False, headers=authorization)
    with process, ThreadPoolExecutor(1) as reading, client:
        reading.submit(observer.follow)
        try:
            observer.wait_for(lambda standing: True)
            yield Service(f"http://127.0.0.1:{port}", client, observer, process.stdin)
        finally:
            end_family(process.pid)


def end_family(pid: int) -> None:
    """Kill a process and its children."""
    family = [psutil.Process(pid)]
    family += family[0].children(recursive=True)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=10)


def profile(folder: Path, port: int, over: Mapping[str, Tree], args: Tree) -> Tree:
    """The input of deploy.py."""
    own = {
        "keys": {"hashes": [hash_key(KEY)]},
        "webhooks": {"keys": str(folder / "webhooks")},
        "files": {"root": str(folder / "files")},
        "model": {"own_cores": False},
    }
    composed = compose(merge(own, args), {"host": "127.0.0.1", "port": port})
    return {
        "settings": composed.settings.model_dump(mode="json"),
        "options": {
            name: without_nulls(deployment | over[name])
            for name, deployment in composed.options.items()
        },
        "http": composed.http,
        "folder": str(folder),
    }


def placed(resource: str, **more: Any) -> Tree:
    """Options of a deployment that runs on nodes with this resource."""
    return more | {"ray_actor_options": {"num_cpus": 0, "resources": {resource: 0.01}}}
