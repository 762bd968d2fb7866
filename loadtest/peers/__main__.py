"""`make bench-peers`: the service against LitServe and BentoML with transformers.

    python -m loadtest.peers [--beams 3] [--requests 16] [--tokens 40] [--haproxy] [--only NAME]...
    python -m loadtest.peers --small        a model of 10 M parameters, greedy, 320 requests
    python -m loadtest.peers --mixed        the same with answers of many lengths

The model has the shapes of Florence-2-base and random weights. Eight clients ask at a time, sixteen
the small model.
The same checkpoint, images, clients and machine for all, one torch thread for each model.
The offline loop of transformers is measured first and last, in the same run.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import cycle
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console

from deployments.errors import SetupError
from deployments.florence.checkpoint import Checkpoint
from loadtest.bench import figures
from loadtest.bench.checkpoint import base_checkpoint, bench_checkpoint, mixed_checkpoint
from loadtest.bench.closed_loop import CONCURRENCIES, ROWS, ClosedLoop, Latencies
from loadtest.bench.offline import images_per_s
from loadtest.bench.reference import AnsweredImage, Reference, mixed_samples
from loadtest.peers import server
from loadtest.peers.environment import python_of
from loadtest.peers.peer import PeerJob, boxes_of
from loadtest.peers.server import MeasuredServer
from loadtest.scenes import SIZE, body_with, photograph

NUM_COMPARED = 8


@dataclass(frozen=True)
class Load:
    """How much is asked of a model; BentoML learns from its first requests how long to wait."""

    beams: int
    requests: int
    images: int
    warm_up: int
    concurrencies: tuple[int, int]


BASE_LOAD = Load(beams=3, requests=16, images=8, warm_up=8, concurrencies=(1, 8))
SMALL_LOAD = Load(beams=1, requests=320, images=32, warm_up=32, concurrencies=CONCURRENCIES)


class ServerName(StrEnum):
    LITSERVE = "litserve"
    BENTOML = "bentoml"
    OURS = "ours"


PEERS = (ServerName.LITSERVE, ServerName.BENTOML)


def main(
    beams: Annotated[int | None, typer.Option(min=1, help="1 is greedy search.")] = None,
    requests: Annotated[int | None, typer.Option(min=16, help="Of all clients.")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of every answer.")] = 40,
    small: Annotated[bool, typer.Option("--small", help="A model of 10 M parameters.")] = False,
    mixed: Annotated[bool, typer.Option("--mixed", help="Answers of many lengths.")] = False,
    only: Annotated[
        list[ServerName] | None, typer.Option(help="Measure this server; can be given again.")
    ] = None,
    haproxy: Annotated[bool, typer.Option("--haproxy", help="HAProxy in front of ours.")] = False,
) -> None:
    """Measure, print the tables, write out/bench/peers….json."""
    load = SMALL_LOAD if small or mixed else BASE_LOAD
    load = replace(load, beams=beams or load.beams, requests=requests or load.requests)
    if mixed and load.beams > 1:
        raise typer.BadParameter("--mixed is greedy: leave --beams out.")
    console = Console()
    names = only or list(ServerName)
    with console.status("Making the checkpoint, installing the peers …") as status:
        job, samples = prepared(load, tokens, small, mixed)
        install(names)
        jpegs = [sample.jpeg for sample in samples]
        status.update("Measuring the offline loop …")
        before = images_per_s(job.checkpoint, job.num_tokens, job.num_beams, jpegs)
        servers: dict[str, list[dict[str, Any]]] = {}
        for name in names:
            status.update(f"Measuring {name} …")
            with started(name, job, haproxy) as running:
                servers[name.value] = measured(running, job, samples, load)
        status.update("Measuring the offline loop again …")
        after = images_per_s(job.checkpoint, job.num_tokens, job.num_beams, jpegs)
    found = {} if only else ratios(servers, (before + after) / 2)
    for number, concurrency in enumerate(load.concurrencies):
        columns = {name: rows[number] for name, rows in servers.items()}
        console.print(figures.table(f"{concurrency} clients", columns, ROWS))
    console.print(f"Offline loop: {before:.2f} before, {after:.2f} after, images/s.")
    for what, ratio in found.items():
        console.print(f"Ours, {what}: {ratio:.2f}")
    result = {
        "num_beams": load.beams,
        "num_tokens": job.num_tokens,
        "haproxy": haproxy,
        "offline_images_per_s": {"before": before, "after": after},
        "servers": servers,
        "ratios": found,
    }
    console.print(f"Figures: {figures.write(file_name(load.beams, small, mixed, only), result)}")


def install(names: list[ServerName]) -> None:
    """Make the environments that are not there yet, so that no measurement waits for them."""
    for name in names:
        if name in PEERS:
            python_of(name)


def prepared(
    load: Load, tokens: int, small: bool, mixed: bool
) -> tuple[PeerJob, list[AnsweredImage]]:
    """What to serve, and the images to ask about, with transformers' answers."""
    if mixed:
        folder = mixed_checkpoint().resolve()
        job = PeerJob(checkpoint=folder, num_beams=load.beams, num_tokens=None)
        return job, mixed_samples(folder)
    folder = (bench_checkpoint() if small else base_checkpoint()).resolve()
    job = PeerJob(checkpoint=folder, num_beams=load.beams, num_tokens=tokens)
    jpegs = [photograph(seed) for seed in range(load.images)]
    answers = Reference(folder, load.beams, tokens).answers(jpegs)
    return job, [AnsweredImage(*sample) for sample in zip(jpegs, answers, strict=True)]


def started(
    name: ServerName, job: PeerJob, haproxy: bool
) -> AbstractContextManager[MeasuredServer]:
    if name is ServerName.OURS:
        return server.ours(job, haproxy)
    return server.litserve(job) if name is ServerName.LITSERVE else server.bentoml(job)


def num_different(running: MeasuredServer, samples: list[AnsweredImage], job: PeerJob) -> int:
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
    running: MeasuredServer, job: PeerJob, samples: list[AnsweredImage], load: Load
) -> list[dict[str, Any]]:
    different = {"num_different": num_different(running, samples, job)}
    loop = ClosedLoop(running.url, running.headers, [body_with(each.jpeg) for each in samples])
    rows = []
    for concurrency in load.concurrencies:
        num = load.requests if concurrency > 1 else load.requests // 8
        row, done = loop.measure(running.work, concurrency, num, load.warm_up)
        rows.append(row | short(done, samples) | different)
    return rows


def short(done: Latencies, samples: list[AnsweredImage]) -> dict[str, float]:
    """The p95 in ms of the short answers, where there are any."""
    pairs = zip(done.seconds, cycle(samples), strict=False)
    found = [1000 * seconds for seconds, sample in pairs if sample.is_short]
    return {"short_p95_ms": figures.percentile(found, 95)} if found else {}


def ratios(servers: dict[str, list[dict[str, Any]]], offline_rate: float) -> dict[str, float]:
    """Ours against the better peer in each respect, and against the offline loop."""
    alone, crowded = ({name: rows[i] for name, rows in servers.items()} for i in (0, 1))

    def against(rows: dict[str, dict[str, Any]], key: str, best: Callable[..., float]) -> float:
        return float(rows[ServerName.OURS][key] / best(rows[name][key] for name in PEERS))

    found = {
        "requests/s, of the better peer": against(crowded, "requests_per_s", max),
        "requests/s, of the offline loop": crowded[ServerName.OURS]["requests_per_s"]
        / offline_rate,
        "p50 of 1 client, of the better peer": against(alone, "p50_ms", min),
    }
    if "short_p95_ms" in crowded[ServerName.OURS]:
        found["p95 of the short, of the better peer"] = against(crowded, "short_p95_ms", min)
    return found


def file_name(beams: int, small: bool, mixed: bool, only: list[ServerName] | None) -> str:
    special = ["small"] * small + ["mixed"] * mixed + [f"{beams}-beams"] * (beams > 1)
    special += [name.value for name in only or []]
    return "-".join(["peers", *special])


if __name__ == "__main__":
    try:
        typer.run(main)
    except SetupError as error:
        raise SystemExit(str(error)) from None
