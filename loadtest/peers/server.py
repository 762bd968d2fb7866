"""A server under measurement, ours or a peer's: started, asked, ended."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import psutil

from deployments.errors import SetupError
from deployments.local.ports import free_port
from loadtest.bench import service as bench
from loadtest.bench.processes import ProcessTree
from loadtest.peers.environment import python_of
from loadtest.peers.peer import Job

READY_TIMEOUT_S = 120.0
ENDING_S = 15.0
JSON = {"Content-Type": "application/json"}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "BENTOML_DO_NOT_TRACK": "True",
}


@dataclass(frozen=True)
class Work:
    """What a server has done so far: passes of its model, and processor seconds in it and in all.

    Requests that share a pass count as one, those that share a part of it as that part.
    """

    passes: float
    model_s: float
    total_s: float

    def since(self, before: "Work") -> "Work":
        """What was done since `before`."""
        return Work(
            self.passes - before.passes,
            self.model_s - before.model_s,
            self.total_s - before.total_s,
        )


@dataclass(frozen=True)
class Server:
    """Where to POST, and what it has done so far."""

    url: str
    headers: dict[str, str]
    work: Callable[[], Work]


@contextmanager
def ours(job: Job, haproxy: bool) -> Iterator[Server]:
    """`florence serve`, as `make bench` starts it."""
    sets = [f"inference.num_beams={job.num_beams}", "inference.image_cache_mb=0"]  # images repeat
    if job.num_tokens is None:
        sets += ["inference.min_new_tokens=0", "inference.max_new_tokens=1024"]
    with bench.service(job.checkpoint, job.num_tokens or 1, haproxy, sets) as started:
        before = started.family.cost()

        def work() -> Work:
            cost = started.family.cost()
            return Work(bench.num_passes(started.url), cost.inside_since(before), cost.total_s)

        headers = JSON | {"Authorization": f"Key {bench.KEY}"}
        yield Server(f"{started.url}/{bench.ENDPOINT}", headers, work)


@contextmanager
def litserve(job: Job) -> Iterator[Server]:
    """The server of litserve_server.py."""
    port = free_port("127.0.0.1")
    arguments = ["loadtest.peers.litserve_server", str(port)]
    with peer("litserve", arguments, job, f"http://127.0.0.1:{port}", "health") as server:
        yield server


@contextmanager
def bentoml(job: Job) -> Iterator[Server]:
    """The server of bentoml_server.py."""
    port = free_port("127.0.0.1")
    arguments = ["bentoml", "serve", "loadtest.peers.bentoml_server:Front"]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    with peer("bentoml", arguments, job, f"http://127.0.0.1:{port}", "readyz") as server:
        yield server


@contextmanager
def peer(name: str, arguments: Sequence[str], job: Job, url: str, ready: str) -> Iterator[Server]:
    """A module that is run in a peer's environment, until the block ends."""
    with TemporaryDirectory() as folder, Path(f"out/peers/{name}.log").open("w") as log:
        job = job.model_copy(update={"folder": Path(folder)})
        environment = os.environ | ENVIRONMENT | job.environment()
        command = [str(python_of(name)), "-m", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        family = ProcessTree(process.pid)
        try:
            wait_until_ready(process, f"{url}/{ready}", log.name)
            yield Server(f"{url}/predict", JSON, lambda: work_of(job, family))
        finally:
            end(process)


def work_of(job: Job, family: ProcessTree) -> Work:
    """What a peer has written down, and what its processes have taken."""
    passes = job.passes()
    return Work(len(passes), sum(done.cpu_s for done in passes), family.cost().total_s)


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: str) -> None:
    """Ask until it answers.

    Raises:
        SetupError: it has ended, or takes too long.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(url, timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    raise SetupError(f"the server did not become ready: see the end of {log}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a server and all that it has started."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, left = psutil.wait_procs([psutil.Process(process.pid), *started], ENDING_S)
    for one in left:
        one.kill()
    process.wait()
