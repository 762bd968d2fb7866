"""Starts a service on this machine, as a process of its own, for as long as a block runs."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from deployments.errors import SetupError
from deployments.local.ports import free_port
from loadtest.bench.closed_loop import ClosedLoop
from loadtest.bench.processes import Cost, ProcessTree, Work

KEY = "florence-bench"
START_S = 180.0
STOP_S = 60.0


ENDPOINT = "fal-ai/florence-2-large/region-proposal"
Haproxy = Annotated[bool, typer.Option(help="HAProxy in front, as on a cluster.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="A setting of the service.")
]


@dataclass(frozen=True)
class LocalService:
    """A service that runs: its URL, the key it takes, its store and its processes."""

    url: str
    key: str
    store: str
    processes: ProcessTree
    start: Cost

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Key {self.key}", "Content-Type": "application/json"}

    def loop(self, bodies: Sequence[bytes]) -> ClosedLoop:
        return ClosedLoop(f"{self.url}/{ENDPOINT}", self.headers, bodies)

    def work(self) -> Work:
        """What was done so far; how often the model has run, as /metrics says."""
        text = httpx2.get(f"{self.url}/metrics", trust_env=False).text
        found = re.search(r"^florence_inference_batches_total (\S+)", text, re.MULTILINE)
        cost = self.processes.cost()
        return Work(float(found[1]) if found else 0.0, cost.inside_since(self.start), cost.total_s)


@contextmanager
def local_service(
    model: Path | None = None,
    haproxy: bool = False,
    sets: Sequence[str] = (),
    store: str | None = None,
    key: str = KEY,
) -> Iterator[LocalService]:
    """`florence serve` with a checkpoint (the demo's without one) and settings `PATH=VALUE`.

    It keeps no encoded images: those of a benchmark repeat, and stand for new ones.

    Raises:
        SetupError: it does not start; the message is its own last line.
    """
    port = free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "deployments.cli", "serve", "--port", str(port)]
        command += ["--state", state, *(["--haproxy"] if haproxy else [])]
        command += ["--model", str(model.resolve())] if model else []
        store = store or f"sqlite:///{Path(state) / 'queue.db'}"
        command += ["--store", store]
        # A benchmark's checkpoint may have random weights, which say one word over and over.
        own = ("inference.image_cache_mb=0", "model.check_answer=false")
        command += [f"--set={text}" for text in (*own, *sets)]
        with (Path(state) / "stderr").open("w+") as said:
            environment = os.environ | {"FLORENCE_API_KEY": key}
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=said
            )
            try:
                if not is_ready(process, f"{url}/ready", START_S):
                    said.seek(0)
                    lines = said.read().strip().splitlines() or ["it said nothing"]
                    raise SetupError(f"the service did not start: {lines[-1]}")
                processes = ProcessTree(process.pid)
                yield LocalService(url, key, store, processes, processes.cost())
            finally:
                process.terminate()
                process.wait(STOP_S)


def fixed_length(tokens: int) -> list[str]:
    """The settings with which every answer has so many tokens."""
    return [f"inference.{bound}_new_tokens={tokens}" for bound in ("min", "max")]


def is_ready(process: "subprocess.Popen[bytes]", url: str, timeout_s: float) -> bool:
    """Ask `url` until it answers 200; False when the process ended or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(url, timeout=5, trust_env=False).status_code == 200:
                return True
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    return False
