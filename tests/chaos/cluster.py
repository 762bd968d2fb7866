"""A Ray cluster of two nodes on this machine that can be broken and mended, by process.

The head holds the cluster's state, in rocksdb, and Serve's controller; the worker holds the
deployments.
Other clusters on the machine are not touched: everything here is found by its own folder.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from deployments.local.launch import ENVIRONMENT, OBJECT_STORE_BYTES
from deployments.local.ports import free_ports

HOST = "127.0.0.1"
START_S = 150.0
DEATH_S = 20.0
NUM_CPUS = 16  # what the deployments may claim; they share the cores that there are
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start")
ROOT = Path(__file__).parents[2]


class Cluster:
    """One head and one worker, whose files are in `folder`; its path must be short.

    `environment` is for all that the nodes start, `heads` goes before it on the head.
    """

    def __init__(self, folder: Path, environment: dict[str, str], heads: dict[str, str]) -> None:
        self._folder = folder
        self._token = secrets.token_hex(16)
        self._gcs_port, self._dashboard_port = free_ports(2)
        own = {
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(folder / "gcs"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "PYTHONPATH": str(ROOT),
        }
        self._environment = os.environ | ENVIRONMENT | environment | own
        self._heads = heads
        self._head: list[psutil.Process] = []

    @property
    def dashboard(self) -> str:
        """Where Serve's configuration is put and its status is read."""
        return f"http://{HOST}:{self._dashboard_port}"

    @property
    def authorization(self) -> dict[str, str]:
        """The header with Ray's token."""
        return {"Authorization": f"Bearer {self._token}"}

    def start(self) -> None:
        """Start both nodes."""
        self.start_head()
        self._start_node("--address", f"{HOST}:{self._gcs_port}", "--num-cpus", str(NUM_CPUS))

    def start_head(self) -> None:
        """Start the head, which finds the state that an earlier one has left."""
        before = self.members()
        ports = ("--port", str(self._gcs_port), "--dashboard-port", str(self._dashboard_port))
        head = ("--head", "--num-cpus", "0", "--include-dashboard=true", *ports)
        self._start_node(*head, **self._heads)
        self._head = [member for member in self.members() if member not in before]

    def kill_head(self) -> None:
        """Kill all processes of the head."""
        end(below(self._head))
        # Ray takes the worker for a cluster that runs, because it is on the same machine.
        (self._folder / "ray_current_cluster").unlink(missing_ok=True)

    def stop(self) -> None:
        """End every process."""
        end(self.members())

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment."""
        return self.called(f"ray::ServeReplica:florence:{deployment}")

    def called(self, title: str) -> list[psutil.Process]:
        """The members whose command begins with `title`, or whose program has this name."""
        return [member for member in self.members() if is_called(member, title)]

    def members(self) -> list[psutil.Process]:
        """All processes of the cluster."""
        return below(each for each in psutil.process_iter() if str(self._folder) in command(each))

    def _start_node(self, *given: str, **environment: str) -> None:
        [agent_port] = free_ports(1)
        options = (
            f"--node-ip-address={HOST}",
            f"--temp-dir={self._folder}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            f"--dashboard-agent-listen-port={agent_port}",
            "--include-log-monitor=false",
            "--disable-usage-stats",
        )
        log = self._folder / "ray-start.log"
        with log.open("ab") as file:  # no pipe: the daemons would keep it open
            done = subprocess.run(
                [*RAY, *given, *options],
                env=self._environment | environment,
                stdout=file,
                stderr=file,
                timeout=START_S,
            )
        if done.returncode:
            raise RuntimeError(f"a node did not start: {log.read_text()[-2000:]}")


def command(process: psutil.Process) -> str:
    """The command of a process; empty when it is gone."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def is_called(process: psutil.Process, title: str) -> bool:
    """Whether its command begins with `title`, or its program has this name."""
    with suppress(psutil.Error):
        return command(process).startswith(title) or process.name() == title
    return False


def below(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """These processes and all that they have started, directly or not; without this one."""
    found = {process.pid: process for process in processes}
    all_ = [(process, parent(process)) for process in psutil.process_iter()]
    while more := [each for each, pid in all_ if pid in found and each.pid not in found]:
        found |= {each.pid: each for each in more}
    found.pop(os.getpid(), None)
    return list(found.values())


def parent(process: psutil.Process) -> int | None:
    """The pid of the process's parent; None when the process is gone."""
    with suppress(psutil.Error):
        return process.ppid()
    return None


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill them all before any can see another die, and wait until they are gone."""
    members = list(processes)
    for act in (psutil.Process.suspend, psutil.Process.kill):
        for member in members:
            with suppress(psutil.Error):
                act(member)
    psutil.wait_procs(members, timeout=DEATH_S)
