"""Constant load: clients that ask at a steady rate until they are stopped."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from loadtest.scenes import body_with, photograph
from tests.chaos.clients import POLICIES, RetryingClient
from tests.chaos.counts import LoadCounts

INTERVAL_S = 0.25  # between an answer and the next question
SCENE = body_with(photograph(1, (256, 256)))


@dataclass(frozen=True)
class Target:
    """The service under load."""

    url: str
    key: str


@contextmanager
def load(target: Target, num_pairs: int) -> Iterator[LoadCounts]:
    """Ask while the block runs; yields the clients' counts, complete after the block.

    Each pair is one that runs and one that queues, with the policies of fal's clients in turn.
    """
    counts = LoadCounts()
    stop = threading.Event()
    policies = [POLICIES[nth % len(POLICIES)] for nth in range(num_pairs)]
    clients = [
        RetryingClient(target.url, target.key, SCENE, policy, counts) for policy in policies * 2
    ]
    works = [c.run for c in clients[:num_pairs]] + [c.queue for c in clients[num_pairs:]]
    with ThreadPoolExecutor(len(works)) as threads:
        asking = [threads.submit(repeat, work, stop) for work in works]
        try:
            yield counts
        finally:
            stop.set()
            for each in asking:
                each.result()
            for client in clients:
                client.close()


def repeat(work: Callable[[], None], stop: threading.Event) -> None:
    """Do `work` at a steady rate until `stop`."""
    while not stop.is_set():
        work()
        stop.wait(INTERVAL_S)


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
