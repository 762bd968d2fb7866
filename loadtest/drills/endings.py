"""`florence serve` is told to stop: who waits is answered, and nothing that was queued is lost."""

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

from loadtest.drills.clients import APP, Client
from loadtest.drills.drill import Outcome
from loadtest.drills.habits import PYTHON
from loadtest.drills.load import SCENE, Target, until
from loadtest.drills.service import Service
from loadtest.drills.tally import Tally

WHAT = "SIGTERM to `florence serve`, and started again"
NUM_RUNS = 4
NUM_QUEUED = 60
SLOW = ("--set", "inference.min_new_tokens=150")  # so that there is something under way
UNDER_WAY_S = 1.0
DONE_S = 180.0
REFUSALS = {"503", "ConnectError", "ReadError", "RemoteProtocolError"}
LEFT = "SELECT state, attempts FROM request WHERE state IN ('queued', 'running')"


def perform(haproxy: bool) -> Outcome:
    """Stop the service amid work, look at what it has left, start it, and wait for the rest."""
    tally = Tally()
    flags = [*SLOW, *(["--haproxy"] if haproxy else [])]
    with tempfile.TemporaryDirectory(prefix="drill-", dir="/tmp") as name:
        service = Service(Path(name), flags)
        try:
            service.start()
            complaints = stopped_amid_work(service, tally)
            complaints += left_behind(Path(name) / "queue.db")
            began = time.monotonic()
            service.start()
            recovered_s = time.monotonic() - began
            complaints += unfinished(service.target, tally)
        finally:
            service.stop()
    return Outcome(WHAT, tally, recovered_s, complaints)


def stopped_amid_work(service: Service, tally: Tally) -> list[str]:
    """Complaints about how others are refused meanwhile; runs that fail are in the tally."""
    clients = [client(service.target, tally) for _ in range(NUM_RUNS)]
    for _ in range(NUM_QUEUED):
        clients[0].submit()
        tally.began(is_queued=True)
    with ThreadPoolExecutor(NUM_RUNS) as threads, knocking(service.target) as heard:
        running = [threads.submit(each.run) for each in clients]
        time.sleep(UNDER_WAY_S)
        service.terminate()
        for run in running:
            run.result()
        service.ended()
    for each in clients:
        each.close()
    return [f"after SIGTERM some were told {what}" for what in heard.keys() - REFUSALS - {"200"}]


def client(target: Target, tally: Tally) -> Client:
    """A client of the service."""
    return Client(target.url, target.key, SCENE, PYTHON, tally)


@contextmanager
def knocking(target: Target) -> Iterator[Counter[str]]:
    """Ask for a run again and again, each time on a new connection; yields what was heard."""
    heard: Counter[str] = Counter()
    stop = threading.Event()
    headers = {"Authorization": f"Key {target.key}", "Content-Type": "application/json"}

    def knock() -> None:
        url = f"{target.url}{APP}/caption"
        while not stop.wait(0.1):
            try:
                options: Any = {"headers": headers, "timeout": 60, "trust_env": False}
                heard[str(httpx2.post(url, content=SCENE, **options).status_code)] += 1
            except httpx2.TransportError as error:
                heard[type(error).__name__] += 1

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield heard
    finally:
        stop.set()
        thread.join()


def left_behind(file: Path) -> list[str]:
    """Complaints about the queue of a service that has ended: all must wait, as if never begun."""
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


def unfinished(target: Target, tally: Tally) -> list[str]:
    """Complaints about acknowledged requests that are not done in the end."""
    asking = client(target, tally)
    waiting = set(tally.acknowledged)

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
