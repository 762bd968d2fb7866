"""Constant load: clients that ask at a steady pace until they are told to stop."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from loadtest.drills.clients import Client
from loadtest.drills.habits import HABITS
from loadtest.drills.tally import Tally
from loadtest.scenes import body_with, photograph

PACE_S = 0.25  # between an answer and the next question
SCENE = body_with(photograph(1, (256, 256)))


@dataclass(frozen=True)
class Target:
    """Where the load goes."""

    url: str
    key: str


@contextmanager
def load(target: Target, num_pairs: int) -> Iterator[Tally]:
    """Ask while the block runs; yields what the clients see, which is complete after the block.

    Each pair is one that runs and one that queues, with the habits of fal's clients in turn.
    """
    tally = Tally()
    stop = threading.Event()
    habits = [HABITS[nth % len(HABITS)] for nth in range(num_pairs)]
    clients = [Client(target.url, target.key, SCENE, habit, tally) for habit in habits * 2]
    works = [c.run for c in clients[:num_pairs]] + [c.queue for c in clients[num_pairs:]]
    with ThreadPoolExecutor(len(works)) as threads:
        asking = [threads.submit(repeat, work, stop) for work in works]
        try:
            yield tally
        finally:
            stop.set()
            for each in asking:
                each.result()
            for client in clients:
                client.close()


def repeat(work: Callable[[], None], stop: threading.Event) -> None:
    """Do `work` at a steady pace until `stop`."""
    while not stop.is_set():
        work()
        stop.wait(PACE_S)


def until(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Seconds until `condition` holds.

    Raises:
        TimeoutError: it does not.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"{what} after {timeout_s:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began
