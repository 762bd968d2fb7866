"""A server under measurement, ours or a peer's: started, asked, ended."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from deployments.errors import SetupError
from deployments.local.ports import free_port
from loadtest.bench.launch import ENDPOINT, fixed_length, is_ready, local_service
from loadtest.bench.processes import ProcessTree, Work
from loadtest.peers.environment import python_of
from loadtest.peers.peer import PeerJob

READY_TIMEOUT_S = 120.0
ENDING_S = 15.0
JSON = {"Content-Type": "application/json"}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "BENTOML_DO_NOT_TRACK": "True",
}


@dataclass(frozen=True)
class MeasuredServer:
    url: str
    headers: dict[str, str]
    work: Callable[[], Work]


@contextmanager
def ours(job: PeerJob, haproxy: bool) -> Iterator[MeasuredServer]:
    """`florence serve`, as `make bench` starts it."""
    sets = [f"inference.num_beams={job.num_beams}"]
    many = ["inference.min_new_tokens=0", "inference.max_new_tokens=1024"]
    length = fixed_length(job.num_tokens) if job.num_tokens else many
    with local_service(job.checkpoint, haproxy, [*length, *sets]) as service:
        yield MeasuredServer(f"{service.url}/{ENDPOINT}", service.headers, service.work)


@contextmanager
def litserve(job: PeerJob) -> Iterator[MeasuredServer]:
    port = free_port("127.0.0.1")
    arguments = ["loadtest.peers.litserve_server", str(port)]
    with peer("litserve", arguments, job, f"http://127.0.0.1:{port}", "health") as server:
        yield server


@contextmanager
def bentoml(job: PeerJob) -> Iterator[MeasuredServer]:
    port = free_port("127.0.0.1")
    arguments = ["bentoml", "serve", "loadtest.peers.bentoml_server:FrontService"]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    with peer("bentoml", arguments, job, f"http://127.0.0.1:{port}", "readyz") as server:
        yield server


@contextmanager
def peer(
    name: str, arguments: Sequence[str], job: PeerJob, url: str, ready: str
) -> Iterator[MeasuredServer]:
    """A module that is run in a peer's environment, until the block ends."""
    with TemporaryDirectory() as folder, Path(f"out/peers/{name}.log").open("w") as log:
        job = job.model_copy(update={"folder": Path(folder)})
        environment = os.environ | ENVIRONMENT | job.environment()
        command = [str(python_of(name)), "-m", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        processes = ProcessTree(process.pid)
        try:
            if not is_ready(process, f"{url}/{ready}", READY_TIMEOUT_S):
                raise SetupError(f"the server did not become ready: see the end of {log.name}")
            yield MeasuredServer(f"{url}/predict", JSON, lambda: work_of(job, processes))
        finally:
            end(process)


def work_of(job: PeerJob, processes: ProcessTree) -> Work:
    """What a peer has written down, and what its processes have taken."""
    passes = job.passes()
    return Work(len(passes), sum(done.cpu_s for done in passes), processes.cost().total_s)


def end(process: "subprocess.Popen[bytes]") -> None:
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, left = psutil.wait_procs([psutil.Process(process.pid), *started], ENDING_S)
    for one in left:
        one.kill()
    process.wait()
