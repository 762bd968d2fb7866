"""What it costs to hand an image from box to box: `python -m loadtest.hops`.

Two deployments of a local Ray pass pixels on, eight at a time: by reference, where the first's
answer is handed to the second through Ray's object store, and by value over gRPC, where it comes
here in between. The processor time is that of all processes together.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from deployments.florence.request import Pixels
from deployments.local.launch import ENVIRONMENT
from loadtest import figures
from loadtest.processes import Family

SIDES = (128, 224, 384, 512, 768)
CONCURRENCY = 8
NUM = 200
Way = Callable[[int], Awaitable[None]]
ONE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


class Giver:
    """Answers with a black image."""

    async def run(self, side: int) -> Pixels:
        """(side, side, 3) bytes."""
        return np.zeros((side, side, 3), np.uint8)


class Taker:
    """Takes an image."""

    async def run(self, pixels: Pixels) -> int:
        """Reads a little of it."""
        return int(pixels[0, 0, 0])


def main() -> None:
    """Measure, print the table, write out/bench/hops.json."""
    os.environ.update(ENVIRONMENT | ONE_LOOP)
    import ray
    from ray import serve

    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", logging_level=logging.ERROR, **options)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        options = {"max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0}}
        handles = [
            serve.run(serve.deployment(**options)(box).bind(), name=box.__name__, route_prefix=None)
            for box in (Giver, Taker)
        ]
        rows = asyncio.run(measured(*handles))
    finally:
        ray.shutdown()
    Console().print(table(rows), f"Figures: {figures.write('hops', {'rows': rows})}")


async def measured(giver: Any, taker: Any) -> list[dict[str, float]]:
    """Milliseconds for an image of each size, in both ways."""
    by_value = [box.options(_by_reference=False) for box in (giver, taker)]

    async def passed_on(side: int) -> None:
        await taker.run.remote(giver.run.remote(side))

    async def brought_here(side: int) -> None:
        await by_value[1].run.remote(await by_value[0].run.remote(side))

    rows = []
    for side in SIDES:
        row = {"side": side, "kB": 3 * side**2 / 1000}
        row |= await timed("by reference", passed_on, side)
        row |= await timed("by value", brought_here, side)
        rows.append(row)
    return rows


async def timed(name: str, way: Way, side: int) -> dict[str, float]:
    """Processor and wall time of an image's two hops, after a few to warm up."""
    await load(way, side, NUM // 4)
    family = Family(os.getpid())
    cpu_s, began = family.cost().total_s, time.perf_counter()
    await load(way, side, NUM)
    wall_s, cpu_s = time.perf_counter() - began, family.cost().total_s - cpu_s
    return {f"CPU {name}": 1000 * cpu_s / NUM, f"wall {name}": 1000 * wall_s / NUM}


async def load(way: Way, side: int, num: int) -> None:
    """Hand on `num` images, some at a time."""
    left = iter(range(num))

    async def client() -> None:
        for _ in left:
            await way(side)

    await asyncio.gather(*(client() for _ in range(CONCURRENCY)))


def table(rows: list[dict[str, float]]) -> Table:
    """The figures for a person."""
    shown = Table(*rows[0], title="Two hops of an image, ms")
    for row in rows:
        shown.add_row(
            *(f"{value:.0f}" if value >= 20 else f"{value:.1f}" for value in row.values())
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
