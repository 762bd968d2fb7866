"""Three times more than the service can do: `python -m loadtest.bench.overload`.

    python -m loadtest.bench.overload [--minutes 5] [--no-haproxy] [--set PATH=VALUE]...

Runs come at random times that do not wait for answers (an open loop), from four keys: at 80 % of
the rate that a closed loop of sixteen clients has reached, then at three times that rate, where
each key asks for more than a fourth of what can be done, and one for more than all of it.
Meanwhile /health is asked five times a second. The exit code is 1 when a bound is missed.
"""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.settings import hash_key
from loadtest.bench import figures
from loadtest.bench.checkpoint import bench_checkpoint
from loadtest.bench.http_connection import Connection, ConnectionPool, RawAnswer, message
from loadtest.bench.launch import (
    ENDPOINT,
    KEY,
    Haproxy,
    LocalService,
    Sets,
    fixed_length,
    local_service,
)
from loadtest.scenes import body_with, photograph

KEYS = (KEY, "florence-bench-2", "florence-bench-3", "florence-bench-4")
CALM = (0.2, 0.2, 0.2, 0.2)  # of the capacity, for each key
OVERLOAD = (1.4, 0.8, 0.5, 0.3)
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
class OpenLoopRuns:
    """The runs of one open loop; latencies count from the time they were due."""

    seconds: float
    latencies_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    accepted: "Counter[str]" = field(default_factory=Counter)
    statuses: "Counter[int]" = field(default_factory=Counter)
    retry_after_s: list[int] = field(default_factory=list)
    max_lag_s: float = 0.0  # of the sender itself

    def add(self, key: str, answer: RawAnswer, seconds: float) -> None:
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

    def __str__(self) -> str:
        waits = self.retry_after_s
        p50, p99 = (figures.percentile(self.latencies_ms, each) for each in (50, 99))
        return (
            f"p50 {p50:.0f} ms; p99 {p99:.0f} ms; statuses {dict(self.statuses)}; "
            f"accepted by key {', '.join(str(self.accepted[key]) for key in KEYS)}; "
            f"Retry-After {f'{min(waits)} to {max(waits)} s' if waits else 'none'}; "
            f"sender late by at most {1000 * self.max_lag_s:.0f} ms"
        )


def main(
    minutes: Annotated[float, typer.Option(help="Time at three times the capacity.")] = 5.0,
    tokens: Annotated[int, typer.Option(help="Tokens of every answer.")] = 40,
    haproxy: Haproxy = True,
    sets: Sets = None,
) -> None:
    """Measure, print the table, write out/bench/overload.json."""
    console = Console()
    bodies = [body_with(photograph(number)) for number in range(32)]
    hashes = ",".join(f'"{hash_key(key)}"' for key in KEYS[1:])
    settings = [*fixed_length(tokens), f"keys.hashes=[{hashes}]", *(sets or [])]
    with (
        local_service(bench_checkpoint(), haproxy, settings) as service,
        console.status("Measuring the capacity …") as status,
    ):
        loop = service.loop(bodies)
        loop.run(16, 32)
        capacity = loop.run(16, 240).rate
        status.update(f"80 % of {capacity:.1f} requests/s …")
        calm = open_loop(service, bodies, capacity, CALM, 60 * min(minutes, 2.0))
        status.update(f"Three times {capacity:.1f} requests/s …")
        overload = open_loop(service, bodies, capacity, OVERLOAD, 60 * minutes)
    found = findings(capacity, calm, overload)
    console.print(table(found), f"80 %: {calm}", f"3×: {overload}", sep="\n")
    result = {"capacity_per_s": capacity, "findings": found, "statuses": dict(overload.statuses)}
    console.print(f"Figures: {figures.write('overload', result)}")
    raise typer.Exit(int(not all(is_kept(name, value) for name, value in found.items())))


def open_loop(
    service: LocalService,
    bodies: Sequence[bytes],
    capacity: float,
    shares: Sequence[float],
    seconds: float,
) -> OpenLoopRuns:
    """Runs at these shares of the capacity for each key, and /health meanwhile."""
    rates = {key: capacity * share for key, share in zip(KEYS, shares, strict=True)}
    return asyncio.run(send(service.url, bodies, rates, seconds))


async def send(
    url: str, bodies: Sequence[bytes], rates: Mapping[str, float], seconds: float
) -> OpenLoopRuns:
    """Send runs at random times, whatever becomes of those before."""
    runs, rng, due = OpenLoopRuns(seconds), random.Random(1), 0.0
    keys, total = list(rates), sum(rates.values())
    pool, begun = ConnectionPool(url), time.perf_counter()
    probe = asyncio.create_task(probe_health(url, runs))
    tasks: set[asyncio.Task[None]] = set()
    while (due := due + rng.expovariate(total)) < seconds:
        await asyncio.sleep(begun + due - time.perf_counter())
        runs.max_lag_s = max(runs.max_lag_s, time.perf_counter() - begun - due)
        [key] = rng.choices(keys, list(rates.values()))
        request = message("POST", f"/{ENDPOINT}", key, rng.choice(bodies))
        tasks.add(asyncio.create_task(run(pool, runs, key, request, begun + due)))
        tasks = {task for task in tasks if not task.done()}
    await asyncio.gather(*tasks)
    probe.cancel()
    pool.close()
    return runs


async def run(
    pool: ConnectionPool, runs: OpenLoopRuns, key: str, request: bytes, due: float
) -> None:
    answer = await pool.ask(request)
    runs.add(key, answer, time.perf_counter() - due)


async def probe_health(url: str, runs: OpenLoopRuns) -> None:
    connection = await Connection.open(url)
    while True:
        begun = time.perf_counter()
        answer = await connection.ask(message("GET", "/health", KEY))
        runs.health_ms.append(1000 * (time.perf_counter() - begun))
        assert answer.status == 200
        await asyncio.sleep(PROBE_EVERY_S)


def findings(capacity: float, calm: OpenLoopRuns, overload: OpenLoopRuns) -> dict[str, float]:
    num_refused, num_accepted = overload.statuses[429], overload.statuses[200]
    calm_p99, p99 = (figures.percentile(each.latencies_ms, 99) for each in (calm, overload))
    return {
        "accepted p99, of that at 80 %": p99 / calm_p99,
        "accepted, of the capacity": num_accepted / overload.seconds / capacity,
        "/health, slowest, ms": max(overload.health_ms),
        "/health, p99, ms": figures.percentile(overload.health_ms, 99),
        "fairness (Jain's index)": overload.fairness,
        "neither 200 nor 429": float(overload.statuses.total() - num_accepted - num_refused),
        "429 without Retry-After": float(num_refused - len(overload.retry_after_s)),
    }


def is_kept(name: str, value: float) -> bool:
    most, least = BOUNDS.get(name, (None, None))
    return (most is None or value <= most) and (least is None or value >= least)


def table(found: Mapping[str, float]) -> Table:
    shown = Table("at three times the capacity", "found", "bound", "")
    for name, value in found.items():
        most, least = BOUNDS.get(name, (None, None))
        bound = f"≤ {most:g}" if most is not None else f"≥ {least:g}" if least is not None else ""
        mark = "" if not bound else "kept" if is_kept(name, value) else "MISSED"
        shown.add_row(name, f"{value:.3g}", bound, mark)
    return shown


if __name__ == "__main__":
    typer.run(main)
