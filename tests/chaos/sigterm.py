"""`florence serve` gets SIGTERM: running requests are answered, and no queued job is lost."""

import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.chaos.clients import APP, PYTHON, RetryingClient
from tests.chaos.counts import LoadCounts
from tests.chaos.drill import DrillResult
from tests.chaos.load import SCENE, Target, until
from tests.chaos.service import Service

WHAT = "SIGTERM to `florence serve`, and started again"
NUM_RUNS = 4
NUM_QUEUED = 20
# Each takes long, and few run at a time, so that on every machine most jobs are left at the end.
SLOW = ("--set=inference.min_new_tokens=200", "--set=queue.max_running=2")
BEGINS_S = 30.0
DONE_S = 180.0
REFUSALS = {"503", "ConnectError", "ReadError", "RemoteProtocolError"}
LEFT = "SELECT state, attempts FROM request WHERE state IN ('queued', 'running')"


def perform(haproxy: bool) -> DrillResult:
    """The drill with a service of its own."""
    with tempfile.TemporaryDirectory(prefix="drill-", dir="/tmp") as name:
        service = Service(Path(name), ["--haproxy"] if haproxy else [])
        try:
            return stop_and_start(service)
        finally:
            service.stop()


def stop_and_start(service: Service) -> DrillResult:
    """Start the service, stop it during work, check its queue, start it, and wait for the rest."""
    counts = LoadCounts()
    service.start(*SLOW)
    complaints = stopped_amid_work(service, counts)
    complaints += left_behind(service.folder / "queue.db")
    began = time.monotonic()
    service.start()
    recovered_s = time.monotonic() - began
    complaints += unfinished(service.target, counts)
    return DrillResult(WHAT, counts, recovered_s, complaints)


def stopped_amid_work(service: Service, counts: LoadCounts) -> list[str]:
    """Complaints about wrong refusals during the shutdown; failed runs are in the counts."""
    clients = [client(service.target, counts) for _ in range(NUM_RUNS)]
    with ThreadPoolExecutor(NUM_RUNS) as threads, asking(service.target) as responses:
        running = [threads.submit(each.run) for each in clients]
        first, *_ = [clients[0].submit() for _ in range(NUM_QUEUED)]
        counts.queued += NUM_QUEUED
        until(lambda: clients[0].status(first)["status"] != "IN_QUEUE", BEGINS_S, "no job begins")
        service.terminate()
        for run in running:
            run.result()
        service.wait()
    for each in clients:
        each.close()
    return [
        f"after SIGTERM some clients got {what}" for what in responses.keys() - REFUSALS - {"200"}
    ]


def client(target: Target, counts: LoadCounts) -> RetryingClient:
    """A client of the service."""
    return RetryingClient(target.url, target.key, SCENE, PYTHON, counts)


@contextmanager
def asking(target: Target) -> Iterator[Counter[str]]:
    """Ask for runs, each on a new connection, and count the responses by kind."""
    responses: Counter[str] = Counter()
    stop = threading.Event()
    headers = {"Authorization": f"Key {target.key}", "Content-Type": "application/json"}

    def ask() -> None:
        url = f"{target.url}{APP}/caption"
        while not stop.wait(0.1):
            try:
                options: Any = {"headers": headers, "timeout": 60, "trust_env": False}
                responses[str(httpx2.post(url, content=SCENE, **options).status_code)] += 1
            except httpx2.TransportError as error:
                responses[type(error).__name__] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield responses
    finally:
        stop.set()
        thread.join()


def left_behind(file: Path) -> list[str]:
    """Complaints about the queue of a stopped service: all jobs must wait, as if never started."""
    with closing(sqlite3.connect(file)) as database:
        left = Counter(database.execute(LEFT).fetchall())
    held = sum(number for (state, _), number in left.items() if state == "running")
    counted = sum(number for (_, attempts), number in left.items() if attempts)
    complaints = [] if left else ["nothing was left to hand back"]
    if held:
        complaints.append(f"{held} requests were not handed back")
    if counted:
        complaints.append(f"the attempts at {counted} requests were counted")
    return complaints


def unfinished(target: Target, counts: LoadCounts) -> list[str]:
    """Complaints about acknowledged jobs that are not done in the end."""
    asking = client(target, counts)
    waiting = set(counts.acknowledged)

    def is_empty() -> bool:
        done = {id_ for id_ in waiting if asking.status(id_)["status"] == "COMPLETED"}
        waiting.difference_update(done)
        return not waiting

    try:
        until(is_empty, DONE_S, "not all done")
    except TimeoutError:
        return [f"{len(waiting)} acknowledged requests are lost"]
    finally:
        asking.close()
    return []
