"""A closed loop of clients: each sends its next request when it has the answer to the last."""

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from loadtest.bench import figures
from loadtest.bench.processes import Work

CONCURRENCIES = (1, 16)
ROWS = {
    "requests/s": ("requests_per_s", 2),
    "of the offline limit": ("of_offline_limit", 2),
    "p50, ms": ("p50_ms", 0),
    "p95, ms": ("p95_ms", 0),
    "p99, ms": ("p99_ms", 0),
    "p95 of the short, ms": ("short_p95_ms", 0),
    "mean batch": ("mean_batch", 2),
    "CPU outside the model, ms/request": ("cpu_outside_ms", 1),
    "CPU in the model, ms/request": ("cpu_model_ms", 1),
    "failed": ("num_failed", 0),
    "answers that differ from transformers'": ("num_different", 0),
}


@dataclass(frozen=True)
class ClosedLoop:
    """Where to POST the bodies, in turns."""

    url: str
    headers: dict[str, str]
    bodies: Sequence[bytes]

    def run(self, concurrency: int, num: int) -> "Latencies":
        """Send `num` requests from `concurrency` clients over kept connections."""
        numbers = iter(range(num))
        latencies = [0.0] * num
        failed: list[int] = []

        def client() -> None:
            parts = urlsplit(self.url)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
            for number in numbers:
                began = time.perf_counter()
                body = self.bodies[number % len(self.bodies)]
                if not is_answered(connection, parts.path, body, self.headers):
                    failed.append(number)
                latencies[number] = time.perf_counter() - began
            connection.close()

        began = time.perf_counter()
        threads = [threading.Thread(target=client) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Latencies(latencies, time.perf_counter() - began, len(failed))

    def measure(
        self, work: Callable[[], Work], concurrency: int, num: int, warm_up: int
    ) -> tuple[dict[str, Any], "Latencies"]:
        """One loop after a short one that warms up, and what it cost the server."""
        self.run(concurrency, warm_up)
        before = work()
        done = self.run(concurrency, num)
        spent = work().since(before)
        found = {
            "concurrency": concurrency,
            "requests_per_s": done.rate,
            **figures.latencies(done.seconds, done.wall_s),
            "mean_batch": num / max(1.0, spent.passes),
            "cpu_outside_ms": 1000 * (spent.total_s - spent.model_s) / num,
            "cpu_model_ms": 1000 * spent.model_s / num,
            "num_failed": done.num_failed,
        }
        return found, done


@dataclass(frozen=True)
class Latencies:
    """Seconds of each request by its number, and of the whole; how many answers were no 200."""

    seconds: Sequence[float]
    wall_s: float
    num_failed: int

    @property
    def rate(self) -> float:
        return (len(self.seconds) - self.num_failed) / self.wall_s


def is_answered(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]
) -> bool:
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens another
        return False
    return response.status == 200
