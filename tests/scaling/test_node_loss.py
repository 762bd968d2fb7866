"""A node is lost under load, with a replica of every deployment but the Ingress on it."""

import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image

from tests.acceptance.caller import scene
from tests.jobs.postgres import postgres as postgres
from tests.scaling.cluster import HEAD, NODE, access
from tests.scaling.service import TIMEOUT_S, Service, deployed, placed

CLIENTS = 6
JOBS = 20
QUEUE = {"max_running": 1, "lease_s": 5}  # submits outrun two at a time, so some are left
SOON = {"RAY_health_check_period_ms": "500"}  # after five, Ray gives a node up; 3 s by default
ON_NODES = placed(NODE, num_replicas=2, max_replicas_per_node=1)
DEPLOYMENTS = ("Preprocess", "Inference", "Postprocess", "Dispatcher")
SMALL = scene(0, (256, 256)).image
LARGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8))


class Load:
    """Clients that ask in a loop, half of them with an image that goes by reference."""

    def __init__(self, service: Service) -> None:
        self.answers: list[httpx2.Response] = []
        self._service = service
        self._stop = threading.Event()

    def ask(self, number: int) -> None:
        """One client."""
        image = (SMALL, LARGE)[number % 2]
        while not self._stop.is_set():
            self.answers.append(self._service.run(image))

    def wait_for(self, more: int) -> None:
        """Wait for `more` answers."""
        goal, deadline = len(self.answers) + more, time.monotonic() + TIMEOUT_S
        while len(self.answers) < goal:
            assert time.monotonic() < deadline, f"{goal - len(self.answers)} answers are missing"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the clients."""
        self._stop.set()


@contextmanager
def load(service: Service) -> Iterator[Load]:
    """The clients ask while the block runs."""
    asking = Load(service)
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(asking.ask, number) for number in range(CLIENTS)]
        try:
            yield asking
        finally:
            asking.stop()
        for client in clients:
            client.result()


def test_a_lost_node_is_no_error_for_a_client(postgres: str) -> None:
    """The remaining node answers every run and finishes every job."""
    options = dict.fromkeys(DEPLOYMENTS, ON_NODES) | {"Ingress": placed(HEAD)}
    args = {"store": {"url": postgres}, "queue": QUEUE}
    with (
        tempfile.TemporaryDirectory(prefix="fl-") as folder,
        deployed(access() | SOON, Path(folder), options, args) as service,
    ):
        service.observer.wait_for(lambda now: now["nodes"] == 3 and now["running"] == 2)
        with load(service) as clients:
            clients.wait_for(2 * CLIENTS)
            names = [service.submit(SMALL) for _ in range(JOBS)]
            service.lose_a_node()
            service.observer.wait_for(lambda now: now["nodes"] == 2)
            clients.wait_for(5 * CLIENTS)
        results = [service.result(name) for name in names]

    failed = [answer for answer in (*clients.answers, *results) if answer.status_code != 200]
    assert [answer.text for answer in failed] == []
