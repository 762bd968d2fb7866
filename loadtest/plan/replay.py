"""The simulated replica against the engine itself: the same arrivals, measured and simulated.

    python -m loadtest.plan.replay [--requests 120] [--share 0.7] [--burst 40] [--slots 8]

The real engine and its real schedule, with the benchmarks' checkpoint and three beams on one thread
of this CPU; time is the processor time that they take, and stands for the time between arrivals, so
others on the machine do not count. What is left out is the service around it (`check`).
The engine's speed is measured just before and just after.
"""

import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from deployments.florence.backend import Job
from deployments.florence.request import Query
from deployments.florence.scheduler import Schedule
from loadtest import figures
from loadtest.checkpoint import bench_checkpoint
from loadtest.driver import Entry
from loadtest.plan import lengths
from loadtest.plan.arrivals import at_random
from loadtest.plan.calibrate import LONGEST, Bench
from loadtest.plan.check import Played, compare, speed_of, table
from loadtest.plan.clock import Clock
from loadtest.plan.replica import Replica, Slots
from loadtest.plan.request import Request
from loadtest.plan.speed import Speed

TOKENS = "40:0.5"
MEAN_TOKENS = 45.0
WAIT_S = 0.002
NEVER = 10**9
ROUNDS = 3
PAUSE_S = 2.0


class BusyTime:
    """Seconds of processor time since the start, and those that were skipped."""

    def __init__(self) -> None:
        self._start = time.process_time()

    def __call__(self) -> float:
        """Now."""
        return time.process_time() - self._start

    def skip(self, seconds: float) -> None:
        """Let idle time pass."""
        self._start -= seconds


def main(
    requests: Annotated[int, typer.Option(min=20, help="Requests that come at random.")] = 120,
    share: Annotated[float, typer.Option(help="Of what the engine can do.")] = 0.7,
    burst: Annotated[int, typer.Option(min=2, help="Requests at once, after those.")] = 40,
    slots: Annotated[int, typer.Option(min=1, help="Most answers at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Of arrivals and lengths.")] = 0,
) -> None:
    """Measure, simulate, print the deviations, write out/bench/replay.json."""
    console = Console()
    folder = bench_checkpoint(figures.FOLDER / "checkpoint")
    with console.status("Measuring the engine …") as status:
        bench = Bench(folder, "cpu", round(MEAN_TOKENS), slots)
        before = bench.measure(ROUNDS)
        rate = share * speed_of([before]).images_per_s(slots, MEAN_TOKENS, bench.engine.micro_batch)
        status.update("Playing the requests …")
        asked = requests_of(requests, rate, burst, seed)
        measured = play(bench, asked)
        status.update("Measuring the engine again …")
        after = bench.measure(ROUNDS)
    simulated = simulate(speed_of([before, after]), slots, bench.engine.micro_batch, asked)
    rows = compare(measured, simulated)
    result = {"share": share, "rate": rate, "calibration": [before, after], "rows": rows}
    console.print(table(rows))
    console.print(f"Figures: {figures.write('replay', result)}")


def requests_of(number: int, rate: float, burst: int, seed: int) -> list[Request]:
    """So many at random, then the burst, which is marked as queued."""
    random = np.random.default_rng(seed)
    times = [each.at_s for each in at_random(rate, number / rate, random)]
    drawn = lengths.draw(lengths.mix_in(TOKENS), len(times) + burst, random)
    tokens = iter(min(LONGEST, max(2, each)) for each in drawn)
    later = [times[-1] + PAUSE_S] * burst
    steady = [Request(at_s, next(tokens), is_queued=False) for at_s in times]
    return [*steady, *(Request(at_s, next(tokens), is_queued=True) for at_s in later)]


def play(bench: Bench, asked: Sequence[Request]) -> list[Played]:
    """Through the engine, as its thread would: who waits, who begins, a step, who is done."""
    engine, now = bench.engine, BusyTime()
    schedule: Schedule[Entry] = Schedule(
        num_slots=engine.num_slots,
        micro_batch=engine.micro_batch,
        patience_s=WAIT_S,
        max_waiting=NEVER,
        max_cost=float("inf"),
    )
    coming = deque(enumerate(asked))
    running: dict[Job[Query], int] = {}
    ended: dict[int, float] = {}
    while coming or len(schedule) or running:
        while coming and coming[0][1].arrived <= now():
            number, request = coming.popleft()
            query = Query(bench.query.pixels, bench.query.prompt, max_new_tokens=request.tokens)
            schedule.add(Entry(number, Job(query), arrived=request.arrived))
        taken = schedule.take(len(running), now())
        if taken:
            engine.admit([entry.job for entry in taken])
            running |= {entry.job: entry.number for entry in taken}
        if running:
            for job, _ in engine.step():
                ended[running.pop(job)] = now()
        else:
            idle(schedule, coming, now)
    return [
        Played(each.arrived, ended[number] - each.arrived, each.is_queued)
        for number, each in enumerate(asked)
    ]


def idle(schedule: Schedule[Entry], coming: deque[tuple[int, Request]], now: BusyTime) -> None:
    """Skip to what comes next: a request, or the end of somebody's patience."""
    pauses = [each[1].arrived - now() for each in list(coming)[:1]]
    pause_s = schedule.pause_s(now())
    pauses += [] if pause_s is None else [pause_s]
    now.skip(max(0.0, min(pauses)))


def simulate(speed: Speed, slots: int, micro_batch: int, asked: Sequence[Request]) -> list[Played]:
    """The same through the simulated replica."""
    clock, left = Clock(), len(asked)
    ended: dict[Request, float] = {}

    def end(request: Request) -> None:
        ended[request] = clock.now

    replica = Replica(clock, speed, Slots(slots, micro_batch, WAIT_S, NEVER), end)
    for request in asked:
        clock.at(request.arrived, partial(replica.add, request))
    while len(ended) < left:
        clock.step()
    return [Played(each.arrived, ended[each] - each.arrived, each.is_queued) for each in asked]


if __name__ == "__main__":
    typer.run(main)
