"""Starts a service on this machine, as a process of its own, for as long as a block runs."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from deployments.errors import SetupError
from deployments.local.ports import free_port
from loadtest.bench.processes import ProcessTree

KEY = "florence-bench"
START_S = 180.0
STOP_S = 60.0


@dataclass(frozen=True)
class LocalService:
    """A service that runs: its URL, the key it takes, its folder and its processes."""

    url: str
    key: str
    state: Path
    processes: ProcessTree


@contextmanager
def local_service(
    model: Path | None = None,
    haproxy: bool = False,
    sets: Sequence[str] = (),
    store: str | None = None,
    key: str = KEY,
) -> Iterator[LocalService]:
    """`florence serve` with a checkpoint (the demo's without one) and settings `PATH=VALUE`.

    Raises:
        SetupError: it does not start; the message is its own last line.
    """
    port = free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "deployments.cli", "serve", "--port", str(port)]
        command += ["--state", state, *(["--haproxy"] if haproxy else [])]
        command += ["--model", str(model.resolve())] if model else []
        command += ["--store", store] if store else []
        command += [f"--set={text}" for text in sets]
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
                yield LocalService(url, key, Path(state), ProcessTree(process.pid))
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
