"""`florence serve` as a process to kill, whole or in part, to stop and to restart."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import httpx2
import psutil

from deployments.errors import SetupError
from deployments.local.ports import free_port
from tests.chaos.load import Target, until

ROOT = Path(__file__).parents[2]
KEY = "florence-chaos"
START_S = 180.0
STOP_S = 90.0
DEATH_S = 10.0


class Service:
    """One service on the state in `folder`, at one port; `flags` are those of `florence serve`."""

    def __init__(self, folder: Path, flags: Sequence[str]) -> None:
        self.folder = folder
        port = quiet_port()
        self.target = Target(f"http://127.0.0.1:{port}", KEY)
        self._log = folder / "serve.log"
        command = [sys.executable, "-m", "deployments.cli", "serve", "--port", str(port)]
        self._command = [*command, "--state", str(folder), *flags]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_started(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._process is not None

    def start(self, *more: str) -> None:
        """Start it, with `more` flags, and wait until it is ready."""
        environment = os.environ | {"FLORENCE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *more], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Ask until every deployment answers."""
        until(self._is_ready, START_S, "florence serve is not ready")

    def kill(self, *parts: str) -> None:
        """Kill every process whose title ends in one of `parts`: `Inference`, `StoreOwner`, …"""
        members = self._members()
        found = {part: [each for each in members if is_called(each, part)] for part in parts}
        assert all(found.values()), found
        for member in chain.from_iterable(found.values()):
            member.kill()
        wait_for_death(chain.from_iterable(found.values()))

    def kill_everything(self) -> None:
        """Kill all processes at once."""
        for member in self._members():
            with suppress(psutil.NoSuchProcess):
                member.suspend()  # so that none starts another, or sees one die
        members = self._members()
        for member in members:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        wait_for_death(members)
        self._reap()

    def terminate(self) -> None:
        """Send SIGTERM, as systemd and Kubernetes do."""
        self._running().terminate()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._running().wait(STOP_S)
        self._process = None

    def stop(self) -> None:
        """Stop it if it runs, and kill the rest."""
        if self._process is None:
            return
        members = self._members()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        for member in members:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self._reap()

    def _is_ready(self) -> bool:
        assert self._running().poll() is None, self._log.read_text()[-2000:]
        with suppress(httpx2.HTTPError):
            url = f"{self.target.url}/ready"
            return httpx2.get(url, timeout=5, trust_env=False).status_code == 200
        return False

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process, "it was not started"
        return self._process

    def _members(self) -> list[psutil.Process]:
        first = psutil.Process(self._running().pid)
        return [first, *first.children(recursive=True)]

    def _reap(self) -> None:
        self._running().wait(DEATH_S)
        self._process = None


def quiet_port() -> int:
    """A free port that the kernel gives to no outgoing connection.

    Else a client that tries again while the service is down could take its port, or even be
    connected to itself.
    """
    for port in random.sample(range(20_000, 30_000), 100):
        with suppress(SetupError):
            return free_port("127.0.0.1", port)
    raise AssertionError("no port is free")


def is_called(process: psutil.Process, part: str) -> bool:
    """Whether `part` is the last word of Ray's title for the process."""
    with suppress(psutil.NoSuchProcess):
        title = " ".join(process.cmdline()).split(" ")[0]
        return title.startswith("ray::") and title.split(".")[0].endswith(f":{part}")
    return False


def wait_for_death(processes: Iterable[psutil.Process]) -> None:
    """Wait until the kernel has ended them; a zombie counts as dead."""
    deadline = time.monotonic() + DEATH_S
    for process in processes:
        while is_alive(process):
            assert time.monotonic() < deadline, f"{process} lives on"
            time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    """Whether the process is alive."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
