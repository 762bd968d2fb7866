"""The simulation against the running service: the same requests, measured and simulated.

    python -m loadtest.plan.check [--seconds 60] [--share 0.4] [--burst 100] [--set PATH=VALUE]...

One replica of the benchmarks' checkpoint on this CPU, three beams, answers of one length.
First synchronous requests as they come (Poisson) at a share of what the replica can do, then a
burst into the queue. The engine is measured by itself just before and just after (`calibrate`);
what a request takes outside the model is taken from single ones, before the load.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from deployments.local.profile import LAPTOP, laid_over, read, serve_config
from loadtest import figures
from loadtest.bench import ENDPOINT, KEY, Service, load, service
from loadtest.checkpoint import bench_checkpoint
from loadtest.connection import Answer, Connection, message
from loadtest.plan.arrivals import at_random
from loadtest.plan.cluster import NodeType
from loadtest.plan.deployed import Deployed, deployed
from loadtest.plan.fleet import Model
from loadtest.plan.request import Request
from loadtest.plan.simulation import Service as Simulated
from loadtest.plan.simulation import Simulation
from loadtest.plan.speed import Curve, Speed
from loadtest.scenes import body

TOKENS = 40
SINGLES = 12
PAUSE_S = 2.0  # between the two loads
POLL_S = 0.02
BODIES = 16


@dataclass(frozen=True)
class Played:
    """One request as it was sent: seconds since the start, and until its answer."""

    sent_s: float
    latency_s: float
    is_queued: bool
    status: int = 200


def main(
    seconds: Annotated[float, typer.Option(min=5, help="Of synchronous requests.")] = 60,
    share: Annotated[float, typer.Option(help="Of what the replica can do.")] = 0.4,
    burst: Annotated[int, typer.Option(min=1, help="Requests at once into the queue.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A setting of the service."),
    ] = None,
) -> None:
    """Measure, simulate, print the deviations, write out/bench/plan.json."""
    console = Console()
    checkpoint = bench_checkpoint(figures.FOLDER / "checkpoint")
    local = deployed(laid_over(read(serve_config()), read(LAPTOP)))
    with console.status("Measuring the engine …") as status:
        before = calibration(checkpoint, local)
        status.update("Starting the service …")
        with service(checkpoint, TOKENS, haproxy=False, sets=sets or []) as started:
            status.update("Sending requests …")
            single_s, played = measure(started, rate(before, local) * share, seconds, burst, seed)
        status.update("Measuring the engine again …")
        after = calibration(checkpoint, local)
    refused = sum(each.status != 200 for each in played)
    if refused:
        raise SystemExit(f"{refused} requests were refused: the machine is too busy; lower --share")
    speed = speed_of([before, after])
    alone_s = speed.prefill(1) + TOKENS * speed.step(1)
    simulated = simulate(local, speed, max(0.0, single_s - alone_s), played, seed)
    rows = compare(played, simulated)
    result = {
        "tokens": TOKENS,
        "share": share,
        "rate": rate(before, local) * share,
        "calibration": [before, after],
        "outside_ms": 1000 * (single_s - alone_s),
        "rows": rows,
    }
    console.print(table(rows))
    rates = " and ".join(f"{rate(each, local):.1f}" for each in (before, after))
    console.print(
        f"Engine before and after: {rates} images/s. "
        f"Outside the model: {1000 * (single_s - alone_s):.0f} ms."
    )
    console.print(f"Figures: {figures.write('plan', result)}")


def calibration(checkpoint: Path, local: Deployed) -> dict[str, Any]:
    """What the engine does by itself, in a process of its own."""
    asked = ["--model", str(checkpoint), "--tokens", str(TOKENS), "--name", "calibration"]
    asked += ["--slots", str(local.slots.max_batch_size)]
    command = [sys.executable, "-m", "loadtest.plan.calibrate", *asked]
    subprocess.run(command, check=True, capture_output=True)
    found: dict[str, Any] = json.loads((figures.FOLDER / "calibration.json").read_text())
    return found


def speed_of(calibrations: Sequence[dict[str, Any]]) -> Speed:
    """The mean of some calibrations."""

    def mean(key: str) -> dict[int, float]:
        numbers = calibrations[0][key]
        return {int(n): statistics.mean(each[key][n] for each in calibrations) for n in numbers}

    return Speed(Curve.measured_ms(mean("step_ms")), Curve.measured_ms(mean("prefill_ms")))


def rate(measured: dict[str, Any], local: Deployed) -> float:
    """Images a second with every slot taken."""
    slots = local.slots
    return speed_of([measured]).images_per_s(slots.max_batch_size, TOKENS, slots.prefill_batch_size)


def measure(
    started: Service, per_s: float, seconds: float, burst: int, seed: int
) -> tuple[float, list[Played]]:
    """The middle of some single requests, and both loads as they were answered."""
    bodies = [body(number) for number in range(BODIES)]
    load(started, bodies, 8, 32)  # warm
    single_s = statistics.median(load(started, bodies, 1, SINGLES).latencies_s)
    times = [each.at_s for each in at_random(per_s, seconds, np.random.default_rng(seed))]
    return single_s, asyncio.run(play(started.url, bodies, times, burst))


async def play(url: str, bodies: list[bytes], times: list[float], burst: int) -> list[Played]:
    """Synchronous requests at these times, then the burst, all sent whatever is answered."""
    began = time.perf_counter()
    free: list[Connection] = []
    sync = [message("POST", f"/{ENDPOINT}", KEY, each) for each in bodies]

    async def one(number: int, at_s: float) -> Played:
        await asyncio.sleep(max(0.0, began + at_s - time.perf_counter()))
        sent = time.perf_counter()
        connection = free.pop() if free else await Connection.open(url)
        answer = await connection.ask(sync[number % len(sync)])
        free.append(connection)
        return Played(sent - began, time.perf_counter() - sent, False, answer.status)

    first = await asyncio.gather(*(one(number, at_s) for number, at_s in enumerate(times)))
    await asyncio.sleep(PAUSE_S)
    return [*first, *await drain(url, bodies, burst, began)]


async def drain(url: str, bodies: list[bytes], burst: int, began: float) -> list[Played]:
    """Submit all at once, then watch the oldest that is not done."""
    connection = await Connection.open(url)
    submitted: list[tuple[float, bytes]] = []
    for number in range(burst):
        sent = time.perf_counter()
        submit = message("POST", f"/queue/{ENDPOINT}", KEY, bodies[number % len(bodies)])
        told = json.loads((await connection.ask(submit)).body)
        path = f"/queue/fal-ai/florence-2-large/requests/{told['request_id']}/status"
        submitted.append((sent, message("GET", path, KEY)))
    played = []
    for sent, status in submitted:
        while True:
            if is_done(await connection.ask(status)):
                break
            await asyncio.sleep(POLL_S)
        played.append(Played(sent - began, time.perf_counter() - sent, is_queued=True))
    connection.close()
    return played


def is_done(status: Answer) -> bool:
    """Whether a status is the last one."""
    return bool(json.loads(status.body)["status"] == "COMPLETED")


def simulate(
    local: Deployed, speed: Speed, outside_s: float, played: Sequence[Played], seed: int
) -> list[Played]:
    """The same requests through the simulation."""
    model = Model(speed, local.slots, 0.0, local.max_ongoing("Inference"))
    simulated = Simulated(
        inference=local.box("Inference"),
        dispatcher=local.box("Dispatcher"),
        model=model,
        node=NodeType(gpus=1, start_s=0.0, idle_s=0.0),
        window=local.settings.queue.max_running,
        outside_s=outside_s,
    )
    requests = [
        Request(each.sent_s, TOKENS, each.is_queued)
        for each in sorted(played, key=lambda each: each.sent_s)
    ]
    Simulation(simulated, requests, requests[-1].arrived, seed).run()
    return [Played(each.arrived, each.latency_s, each.is_queued) for each in requests]


def compare(played: Sequence[Played], simulated: Sequence[Played]) -> dict[str, dict[str, float]]:
    """Each figure as measured, as simulated, and the simulated one's deviation."""
    measured, found = summary(played), summary(simulated)
    return {
        name: {
            "measured": measured[name],
            "simulated": found[name],
            "deviation": found[name] / measured[name] - 1,
        }
        for name in measured
    }


def summary(played: Sequence[Played]) -> dict[str, float]:
    """The figures of both loads."""
    sync = [each for each in played if not each.is_queued]
    queued = [each for each in played if each.is_queued]
    latencies = [1000 * each.latency_s for each in sync]
    drain_s = max(each.sent_s + each.latency_s for each in queued) - queued[0].sent_s
    return {
        "synchronous: requests/s": len(sync) / span(sync),
        "synchronous: mean, ms": statistics.mean(latencies),
        "synchronous: p50, ms": figures.percentile(latencies, 50),
        "synchronous: p95, ms": figures.percentile(latencies, 95),
        "burst: seconds until all are done": drain_s,
        "burst: requests/s": len(queued) / drain_s,
    }


def span(played: Sequence[Played]) -> float:
    """Seconds from the first request to the last answer."""
    return max(each.sent_s + each.latency_s for each in played) - played[0].sent_s


def table(rows: dict[str, dict[str, float]]) -> Table:
    """The figures for a person."""
    shown = Table("One replica on this CPU")
    for name in ("measured", "simulated", "deviation"):
        shown.add_column(name, justify="right")
    for name, row in rows.items():
        shown.add_row(
            name, f"{row['measured']:.2f}", f"{row['simulated']:.2f}", f"{row['deviation']:+.0%}"
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
