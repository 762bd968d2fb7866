"""Producers that submit to a store one request after the other, and how long each took."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from deployments.jobs.job import Submission
from loadtest.bench import figures

Submit = Callable[[Submission], Awaitable[Any]]

INPUT = '{"image_url":"https://example.com/images/0123456789abcdef.jpg"}'
numbers = count()


@dataclass(frozen=True)
class Pace:
    """How often something was done, and how long each time took."""

    per_s: float
    p50_ms: float
    p99_ms: float


def submission(key_id: str = "key") -> Submission:
    """The next request of a key; ids are as long as those of the service."""
    return Submission(
        id=f"{next(numbers):032x}-run",
        key_id=key_id,
        path="region-proposal",
        input=INPUT,
        base_url="https://florence.example.com",
    )


async def produce(submit: Submit, num: int, seconds: float) -> Pace:
    """`num` tasks that submit for so long, each as soon as its last request is acknowledged."""
    latencies: list[float] = []
    start = time.perf_counter()

    async def producer() -> None:
        while (before := time.perf_counter()) < start + seconds:
            await submit(submission())
            latencies.append(time.perf_counter() - before)

    await asyncio.gather(*(producer() for _ in range(num)))
    return pace(latencies, time.perf_counter() - start)


async def repeat(ask: Callable[[], Awaitable[Any]], times: int) -> Pace:
    """Ask so often, one after the other."""
    latencies = []
    start = time.perf_counter()
    for _ in range(times):
        before = time.perf_counter()
        await ask()
        latencies.append(time.perf_counter() - before)
    return pace(latencies, time.perf_counter() - start)


def pace(latencies: Sequence[float], seconds: float) -> Pace:
    """The figures of latencies in seconds, all within `seconds`."""
    milliseconds = [1000 * latency for latency in latencies]
    p50, p99 = (figures.percentile(milliseconds, percent) for percent in (50, 99))
    return Pace(len(latencies) / seconds, p50, p99)
