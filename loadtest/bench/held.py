"""A service whose queue only grows, so that nothing but the queue is measured.

The Dispatcher runs one request at a time (`queue.max_running=1`), and the first one waits for its
image from a host that never sends it: the model is idle, and nothing is claimed any more.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from deployments.local.ports import free_port
from loadtest.bench.processes import ProcessTree
from loadtest.bench.service import KEY, front, wait_until_ready

ENDPOINT = "fal-ai/florence-2-large/caption"
FOREVER_S = 86400


@dataclass(frozen=True)
class Held:
    """The service, where its store is, and the body of a request that waits for ever."""

    url: str
    store: str
    body: bytes
    family: ProcessTree


@contextmanager
def held(max_queued: int, store: str | None, haproxy: bool, sets: list[str]) -> Iterator[Held]:
    """`florence serve` whose first request hangs, for as long as the block runs."""
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory() as state, silent_host() as host:
        url = store or f"sqlite:///{Path(state) / 'queue.db'}"
        command = [sys.executable, "-m", "deployments.cli", "serve", "--port", str(port)]
        command += ["--state", state, "--store", url, *front(haproxy)]
        command += [*flags(host, max_queued), *settings(sets)]
        environment = os.environ | {"FLORENCE_API_KEY": KEY}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}")
            body = b'{"image_url":"http://%s/image.png"}' % host.encode()
            started = Held(f"http://127.0.0.1:{port}", url, body, ProcessTree(process.pid))
            hold(started)
            yield started
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def silent_host() -> Iterator[str]:
    """`host:port` of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        yield f"{host}:{port}"


def flags(host: str, max_queued: int) -> list[str]:
    """What makes the first request wait and the others queue."""
    return settings(
        [
            "queue.max_running=1",
            f"queue.max_queued={max_queued}",
            f"preprocess.allowed_hosts=['{host}']",
            f"preprocess.fetch_timeout_s={FOREVER_S}",
            f"ingress.deadline_s={FOREVER_S}",
        ]
    )


def settings(sets: list[str]) -> list[str]:
    """Settings as flags of `florence serve`."""
    return [f"--set={text}" for text in sets]


def hold(started: Held) -> None:
    """Submit the request that hangs, and wait until the Dispatcher has it."""
    headers = {"Authorization": f"Key {KEY}"}
    with httpx2.Client(headers=headers, trust_env=False) as http:
        url = f"{started.url}/queue/{ENDPOINT}"
        first = http.post(url, content=started.body).raise_for_status().json()
        deadline = time.monotonic() + 30
        while http.get(first["status_url"]).json()["status"] != "IN_PROGRESS":
            if time.monotonic() > deadline:
                raise SystemExit("the Dispatcher does not take the first request")
            time.sleep(0.05)
