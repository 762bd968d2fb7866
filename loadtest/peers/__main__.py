"""`make bench-peers`: the service against LitServe and BentoML with transformers.

    python -m loadtest.peers [--beams 1] [--requests 320] [--tokens 40] [--haproxy] [--only NAME]...
    python -m loadtest.peers --mixed        answers of many lengths

The same checkpoint, images, clients and machine for all, one torch thread for each model.
The offline loop of transformers is measured first and last, in the same run.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console
from rich.table import Table

from deployments.errors import SetupError
from deployments.florence.checkpoint import Checkpoint
from loadtest.bench import closed_loop, figures
from loadtest.bench.checkpoint import bench_checkpoint, mixed_checkpoint
from loadtest.bench.closed_loop import Load
from loadtest.bench.mixture import Sample, mixture
from loadtest.bench.reference import Reference
from loadtest.peers import server
from loadtest.peers.environment import python_of
from loadtest.peers.machine import Moment
from loadtest.peers.peer import Job, boxes_of
from loadtest.peers.server import Server
from loadtest.scenes import SIZE, body_with, photograph

CONCURRENCIES = (1, 16)
NUM_IMAGES = 32
WARM_UP = 32  # BentoML learns from its first requests how long to wait
NUM_COMPARED = 8
OFFLINE_S = 15.0


class Name(StrEnum):
    """A server that can be measured."""

    LITSERVE = "litserve"
    BENTOML = "bentoml"
    OURS = "ours"


PEERS = (Name.LITSERVE, Name.BENTOML)


def main(
    beams: Annotated[int, typer.Option(min=1, help="1 is greedy search.")] = 1,
    requests: Annotated[int, typer.Option(min=64, help="Requests of 16 clients.")] = 320,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of every answer.")] = 40,
    mixed: Annotated[bool, typer.Option("--mixed", help="Answers of many lengths.")] = False,
    only: Annotated[
        list[Name] | None, typer.Option(help="Measure this server; can be given again.")
    ] = None,
    haproxy: Annotated[bool, typer.Option("--haproxy", help="HAProxy in front of ours.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Models of a peer, side by side.")] = 1,
) -> None:
    """Measure, print the tables, write out/bench/peers….json."""
    if mixed and beams > 1:
        raise typer.BadParameter("--mixed is greedy: leave --beams out.")
    console = Console()
    names = only or list(Name)
    with console.status("Making the checkpoint, installing the peers …") as status:
        job, samples = prepared(beams, tokens, mixed, workers)
        install(names)
        status.update("Measuring the offline loop …")
        before = offline(job, samples)
        servers: dict[str, list[dict[str, Any]]] = {}
        for name in names:
            status.update(f"Measuring {name} …")
            with started(name, job, haproxy) as running:
                servers[name.value] = measured(running, job, samples, requests)
        status.update("Measuring the offline loop again …")
        after = offline(job, samples)
    found = {} if only else ratios(servers, (before + after) / 2)
    console.print(*(table(servers, number) for number in range(len(CONCURRENCIES))), sep="\n")
    console.print(f"Offline loop: {before:.2f} before, {after:.2f} after, images/s.")
    for what, ratio in found.items():
        console.print(f"Ours, {what}: {ratio:.2f}")
    result = {
        "num_beams": beams,
        "num_tokens": job.num_tokens,
        "haproxy": haproxy,
        "workers": workers,
        "offline_images_per_s": {"before": before, "after": after},
        "servers": servers,
        "ratios": found,
    }
    console.print(f"Figures: {figures.write(file_name(beams, mixed, workers, only), result)}")


def install(names: list[Name]) -> None:
    """Make the environments that are not there yet, so that no measurement waits for them."""
    for name in names:
        if name in PEERS:
            python_of(name)


def prepared(beams: int, tokens: int, mixed: bool, workers: int) -> tuple[Job, list[Sample]]:
    """What to serve, and the images to ask about, with transformers' answers."""
    if mixed:
        folder = mixed_checkpoint(figures.FOLDER / "mixed-checkpoint").resolve()
        job = Job(checkpoint=folder, num_beams=beams, num_tokens=None, workers=workers)
        return job, mixture(folder)
    folder = bench_checkpoint(figures.FOLDER / "checkpoint").resolve()
    job = Job(checkpoint=folder, num_beams=beams, num_tokens=tokens, workers=workers)
    jpegs = [photograph(seed) for seed in range(NUM_IMAGES)]
    answers = Reference(folder, beams, tokens).answers(jpegs)
    return job, [Sample(*sample) for sample in zip(jpegs, answers, strict=True)]


def started(name: Name, job: Job, haproxy: bool) -> AbstractContextManager[Server]:
    """One of the servers, for as long as a block runs."""
    if name is Name.OURS:
        return server.ours(job, haproxy)
    return server.litserve(job) if name is Name.LITSERVE else server.bentoml(job)


def offline(job: Job, samples: list[Sample]) -> float:
    """Images a second of the plain loop, in a process of its own."""
    with TemporaryDirectory() as folder:
        for number, sample in enumerate(samples):
            (Path(folder) / f"{number:03}.jpg").write_bytes(sample.jpeg)
        command = [sys.executable, "-m", "loadtest.peers.offline", folder, str(OFFLINE_S)]
        environment = os.environ | job.environment()
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    return float(done.stdout)


def num_different(running: Server, samples: list[Sample], job: Job) -> int:
    """How many answers have other boxes than transformers gives alone."""
    vocabulary = Checkpoint(job.checkpoint).vocabulary
    num = 0
    for sample in samples[:NUM_COMPARED]:
        body = body_with(sample.jpeg)
        answer = httpx2.post(running.url, content=body, headers=running.headers, timeout=120)
        boxes = boxes_of(sample.answer, vocabulary, SIZE)
        num += answer.json().get("results") != boxes.model_dump()
    return num


def measured(
    running: Server, job: Job, samples: list[Sample], requests: int
) -> list[dict[str, Any]]:
    """The figures of one server, for each number of clients."""
    different = {"num_different": num_different(running, samples, job)}
    return [measure(running, samples, c, requests) | different for c in CONCURRENCIES]


def measure(
    running: Server, samples: list[Sample], concurrency: int, requests: int
) -> dict[str, Any]:
    """One loop after a short one that warms up, and what it cost the server."""
    bodies = [body_with(sample.jpeg) for sample in samples]
    num = requests if concurrency > 1 else requests // 8
    closed_loop.run(running.url, running.headers, bodies, concurrency, WARM_UP)
    before, moment = running.work(), Moment()
    done = closed_loop.run(running.url, running.headers, bodies, concurrency, num)
    work = running.work().since(before)
    return {
        "concurrency": concurrency,
        "requests_per_s": done.rate,
        **latencies(done, samples),
        "mean_rows": num / work.passes,
        "cpu_outside_ms": 1000 * (work.total_s - work.model_s) / num,
        "cpu_model_ms": 1000 * work.model_s / num,
        "num_failed": done.num_failed,
        "others_percent": 100 * moment.taken_by_others(work.total_s),
    }


def latencies(done: Load, samples: list[Sample]) -> dict[str, float]:
    """Percentiles in ms of all requests, and of the short ones where there are any."""
    all_ms = [1000 * seconds for seconds in done.latencies_s]
    short_ms = [ms for ms, sample in zip(all_ms, cycle(samples), strict=False) if sample.is_short]
    found = {f"p{percent}_ms": figures.percentile(all_ms, percent) for percent in (50, 95)}
    if short_ms:
        found["short_p95_ms"] = figures.percentile(short_ms, 95)
    return found


def ratios(servers: dict[str, list[dict[str, Any]]], offline_rate: float) -> dict[str, float]:
    """Ours against the better peer in each respect, and against the offline loop."""
    alone, crowded = ({name: rows[i] for name, rows in servers.items()} for i in (0, 1))

    def against(rows: dict[str, dict[str, Any]], key: str, best: Callable[..., float]) -> float:
        return float(rows[Name.OURS][key] / best(rows[name][key] for name in PEERS))

    found = {
        "requests/s, of the better peer": against(crowded, "requests_per_s", max),
        "requests/s, of the offline loop": crowded[Name.OURS]["requests_per_s"] / offline_rate,
        "p50 of 1 client, of the better peer": against(alone, "p50_ms", min),
    }
    if "short_p95_ms" in crowded[Name.OURS]:
        found["p95 of the short, of the better peer"] = against(crowded, "short_p95_ms", min)
    return found


def file_name(beams: int, mixed: bool, workers: int, only: list[Name] | None) -> str:
    """peers, and what makes this run a special one."""
    special = ["mixed"] * mixed + [f"{beams}-beams"] * (beams > 1)
    special += [f"{workers}-workers"] * (workers > 1) + [name.value for name in only or []]
    return "-".join(["peers", *special])


ROWS = {
    "requests/s": ("requests_per_s", 2),
    "p50, ms": ("p50_ms", 0),
    "p95, ms": ("p95_ms", 0),
    "p95 of the short, ms": ("short_p95_ms", 0),
    "mean rows": ("mean_rows", 2),
    "CPU outside the model, ms/request": ("cpu_outside_ms", 1),
    "CPU in the model, ms/request": ("cpu_model_ms", 1),
    "failed": ("num_failed", 0),
    f"answers that differ from transformers', of {NUM_COMPARED}": ("num_different", 0),
    "other programs, % of the machine": ("others_percent", 0),
}


def table(servers: dict[str, list[dict[str, Any]]], number: int) -> Table:
    """The figures of one number of clients for a person, a column for each server."""
    columns = {name: rows[number] for name, rows in servers.items()}
    shown = Table(f"{CONCURRENCIES[number]} clients", *columns)
    for title, (key, digits) in ROWS.items():
        cells = [f"{column[key]:.{digits}f}" for column in columns.values() if key in column]
        if cells:
            shown.add_row(title, *cells)
    return shown


if __name__ == "__main__":
    try:
        typer.run(main)
    except SetupError as error:
        raise SystemExit(str(error)) from None
