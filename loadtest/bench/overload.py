"""Three times more than the service can do: `python -m loadtest.bench.overload`.

    python -m loadtest.bench.overload [--minutes 5] [--no-haproxy] [--set PATH=VALUE]...

Runs come at random times that do not wait for answers (an open loop), from four keys: at 80 % of
the rate that a closed loop of sixteen clients has reached, then at three times that rate, where
each key asks for more than a fourth of what can be done, and one for more than all of it.
Meanwhile /health is asked five times a second. The exit code is 1 when a bound is missed.
"""

import asyncio
import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from deployments.settings import hash_key
from loadtest.bench import figures
from loadtest.bench.checkpoint import bench_checkpoint
from loadtest.bench.connection import Answer, Connection, message
from loadtest.bench.service import BATCH, ENDPOINT, KEY, Service, load, service
from loadtest.scenes import body

KEYS = (KEY, "florence-bench-2", "florence-bench-3", "florence-bench-4")
CALM = (0.2, 0.2, 0.2, 0.2)  # of the capacity, for each key
STORM = (1.4, 0.8, 0.5, 0.3)
PROBE_EVERY_S = 0.2
RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)\r\n", re.IGNORECASE)
BOUNDS = {  # name: (largest, smallest)
    "accepted p99, of that at 80 %": (2.0, None),
    "accepted, of the capacity": (None, 0.8),
    "/health, slowest, ms": (100.0, None),
    "fairness (Jain's index)": (None, 0.95),
    "neither 200 nor 429": (0.0, None),
    "429 without Retry-After": (0.0, None),
}


@dataclass
class Tally:
    """What came of the runs of one open loop; latencies count from the time they were due."""

    seconds: float
    latencies_ms: list[float] = field(default_factory=list)
    accepted: "Counter[str]" = field(default_factory=Counter)
    statuses: "Counter[int]" = field(default_factory=Counter)
    retry_after_s: list[int] = field(default_factory=list)
    most_late_s: float = 0.0  # of the sender itself

    def note(self, key: str, answer: Answer, seconds: float) -> None:
        """Count an answer."""
        self.statuses[answer.status] += 1
        if answer.status == 200:
            self.latencies_ms.append(1000 * seconds)
            self.accepted[key] += 1
        elif found := RETRY_AFTER.search(answer.head):
            self.retry_after_s.append(int(found[1]))

    @property
    def fairness(self) -> float:
        """Jain's index over the keys: 1 when all had the same."""
        numbers = [self.accepted[key] for key in KEYS]
        squares = sum(number**2 for number in numbers)
        return sum(numbers) ** 2 / (len(numbers) * squares) if squares else 0.0


def main(
    minutes: Annotated[float, typer.Option(help="Time at three times the capacity.")] = 5.0,
    tokens: Annotated[int, typer.Option(help="Tokens of every answer.")] = 40,
    haproxy: Annotated[bool, typer.Option(help="HAProxy in front, as on a cluster.")] = True,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A setting of the service."),
    ] = None,
) -> None:
    """Measure, print the table, write out/bench/overload.json."""
    console = Console()
    checkpoint = bench_checkpoint(figures.FOLDER / "checkpoint")
    bodies = [body(number) for number in range(32)]
    hashes = ",".join(f'"{hash_key(key)}"' for key in KEYS[1:])
    settings = [f"keys.hashes=[{hashes}]", *(sets or [])]
    with service(checkpoint, tokens, haproxy, settings) as started, console.status("") as status:
        load(started, bodies, 16, 4 * BATCH)
        status.update("Measuring the capacity …")
        capacity = load(started, bodies, 16, 240).rate
        status.update(f"80 % of {capacity:.1f} requests/s …")
        calm, _ = storm(started, bodies, capacity, CALM, 60 * min(minutes, 2.0))
        status.update(f"Three times {capacity:.1f} requests/s …")
        wild, probed = storm(started, bodies, capacity, STORM, 60 * minutes)
    found = findings(capacity, calm, wild, probed)
    console.print(table(found))
    for name, tally in (("80 %", calm), ("3×", wild)):
        console.print(told(name, tally))
    result = {"capacity_per_s": capacity, "findings": found, "statuses": dict(wild.statuses)}
    console.print(f"Figures: {figures.write('overload', result)}")
    raise typer.Exit(int(not all(is_kept(name, value) for name, value in found.items())))


def storm(
    started: Service,
    bodies: Sequence[bytes],
    capacity: float,
    loads: Sequence[float],
    seconds: float,
) -> tuple[Tally, list[float]]:
    """An open loop at `loads` times the capacity, and the milliseconds of /health meanwhile."""
    rates = {key: capacity * share for key, share in zip(KEYS, loads, strict=True)}
    with probing(started.url) as probed:
        tally = asyncio.run(open_loop(started.url, bodies, rates, seconds))
    return tally, probed


async def open_loop(
    url: str, bodies: Sequence[bytes], rates: Mapping[str, float], seconds: float
) -> Tally:
    """Send runs at random times, at these rates for each key, whatever becomes of those before."""
    tally, rng, due = Tally(seconds), random.Random(1), 0.0
    keys, total = list(rates), sum(rates.values())
    path, pool, begun = f"/{ENDPOINT}", Pool(url), time.perf_counter()
    runs: set[asyncio.Task[None]] = set()
    while (due := due + rng.expovariate(total)) < seconds:
        await asyncio.sleep(begun + due - time.perf_counter())
        tally.most_late_s = max(tally.most_late_s, time.perf_counter() - begun - due)
        [key] = rng.choices(keys, list(rates.values()))
        request = message("POST", path, key, rng.choice(bodies))
        runs.add(asyncio.create_task(run(pool, tally, key, request, begun + due)))
        runs = {task for task in runs if not task.done()}
    await asyncio.gather(*runs)
    pool.close()
    return tally


async def run(pool: "Pool", tally: Tally, key: str, request: bytes, due: float) -> None:
    """One run from when it was due."""
    answer = await pool.ask(request)
    tally.note(key, answer, time.perf_counter() - due)


class Pool:
    """As many kept connections as there are runs under way."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Connection] = []

    async def ask(self, request: bytes) -> Answer:
        """The answer; status 0 when the connection broke."""
        try:
            connection = self._kept() or await Connection.open(self._url)
            answer = await connection.ask(request)
        except (OSError, EOFError):
            return Answer(0, b"")
        self._idle.append(connection)
        return answer

    def _kept(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return None

    def close(self) -> None:
        """Hang up."""
        for connection in self._idle:
            connection.close()


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Ask /health again and again inside the block; yields the milliseconds of each."""
    over, took_ms = threading.Event(), list[float]()

    def probe() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        while not over.wait(PROBE_EVERY_S):
            begun = time.perf_counter()
            connection.request("GET", "/health")
            status = connection.getresponse()
            status.read()
            took_ms.append(1000 * (time.perf_counter() - begun))
            assert status.status == 200

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield took_ms
    finally:
        over.set()
        thread.join()


def findings(
    capacity: float, calm: Tally, wild: Tally, probed: Sequence[float]
) -> dict[str, float]:
    """What the bounds are for."""
    num_refused, num_accepted = wild.statuses[429], wild.statuses[200]
    p99 = figures.percentile
    return {
        "accepted p99, of that at 80 %": p99(wild.latencies_ms, 99) / p99(calm.latencies_ms, 99),
        "accepted, of the capacity": num_accepted / wild.seconds / capacity,
        "/health, slowest, ms": max(probed),
        "/health, p99, ms": p99(probed, 99),
        "fairness (Jain's index)": wild.fairness,
        "neither 200 nor 429": float(wild.statuses.total() - num_accepted - num_refused),
        "429 without Retry-After": float(num_refused - len(wild.retry_after_s)),
    }


def is_kept(name: str, value: float) -> bool:
    """Whether a finding is within its bounds."""
    most, least = BOUNDS.get(name, (None, None))
    return (most is None or value <= most) and (least is None or value >= least)


def told(name: str, tally: Tally) -> str:
    """One line about an open loop."""
    waits = tally.retry_after_s
    shares = ", ".join(str(tally.accepted[key]) for key in KEYS)
    lines: dict[str, Any] = {
        "p50": f"{figures.percentile(tally.latencies_ms, 50):.0f} ms",
        "p99": f"{figures.percentile(tally.latencies_ms, 99):.0f} ms",
        "statuses": dict(tally.statuses),
        "accepted by key": shares,
        "Retry-After": f"{min(waits)} to {max(waits)} s" if waits else "none",
        "sender late by at most": f"{1000 * tally.most_late_s:.0f} ms",
    }
    return f"{name}: " + "; ".join(f"{key} {value}" for key, value in lines.items())


def table(found: Mapping[str, float]) -> Table:
    """The findings for a person."""
    shown = Table("at three times the capacity", "found", "bound", "")
    for name, value in found.items():
        most, least = BOUNDS.get(name, (None, None))
        bound = f"≤ {most:g}" if most is not None else f"≥ {least:g}" if least is not None else ""
        mark = "" if not bound else "kept" if is_kept(name, value) else "MISSED"
        shown.add_row(name, f"{value:.3g}", bound, mark)
    return shown


if __name__ == "__main__":
    typer.run(main)
