"""A closed loop of clients: each sends its next request when it has the answer to the last."""

import http.client
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    """Seconds of each request and of the whole, and how many answers were no 200."""

    latencies_s: Sequence[float]
    wall_s: float
    num_failed: int

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return (len(self.latencies_s) - self.num_failed) / self.wall_s


def run(
    url: str, headers: dict[str, str], bodies: Sequence[bytes], concurrency: int, num: int
) -> Load:
    """Send `num` requests from `concurrency` clients, bodies in turn, over kept connections."""
    numbers = iter(range(num))
    latencies: list[float] = []
    failures = itertools.count()
    num_failed = 0

    def client() -> None:
        nonlocal num_failed
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        for number in numbers:
            began = time.perf_counter()
            connection.request("POST", parts.path, bodies[number % len(bodies)], headers)
            response = connection.getresponse()
            response.read()
            latencies.append(time.perf_counter() - began)
            if response.status != 200:
                num_failed = next(failures) + 1
        connection.close()

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(latencies, time.perf_counter() - began, num_failed)
