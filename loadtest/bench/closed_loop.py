"""A closed loop of clients: each sends its next request when it has the answer to the last."""

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    """Seconds of each request by its number, and of the whole; how many answers were no 200."""

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
    latencies = [0.0] * num
    failed: list[int] = []

    def client() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        for number in numbers:
            began = time.perf_counter()
            if not is_answered(connection, parts.path, bodies[number % len(bodies)], headers):
                failed.append(number)
            latencies[number] = time.perf_counter() - began
        connection.close()

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(latencies, time.perf_counter() - began, len(failed))


def is_answered(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]
) -> bool:
    """Whether the answer to a POST is a 200."""
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens another
        return False
    return response.status == 200
