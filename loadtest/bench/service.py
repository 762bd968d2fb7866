"""`make bench`: the running service under a closed loop, against a plain loop of its model.

    python -m loadtest.bench.service [--requests 320] [--tokens 40] [--no-haproxy] [--set P=V]...

512×512 JPEGs as data URIs, the checkpoint's own three beams, answers of one length, one torch
thread.
The offline limit is measured just before and just after the service, in the same run.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console
from rich.table import Table

from deployments.local.ports import free_port
from loadtest.bench import closed_loop, figures
from loadtest.bench.checkpoint import bench_checkpoint
from loadtest.bench.closed_loop import Load
from loadtest.bench.processes import ProcessTree
from loadtest.scenes import body

KEY = "florence-bench"
BATCH = 8
CONCURRENCIES = (1, 16)
OFFLINE_S = 15.0
ENDPOINT = "fal-ai/florence-2-large/region-proposal"


@dataclass(frozen=True)
class Service:
    """A service that was started for the benchmark."""

    url: str
    family: ProcessTree


def main(
    requests: Annotated[int, typer.Option(help="Requests at concurrency 16.")] = 320,
    tokens: Annotated[int, typer.Option(help="Tokens of every answer.")] = 40,
    haproxy: Annotated[bool, typer.Option(help="HAProxy in front, as on a cluster.")] = True,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A setting of the service."),
    ] = None,
) -> None:
    """Measure, print the table, write out/bench/service.json."""
    console = Console()
    checkpoint = bench_checkpoint(figures.FOLDER / "checkpoint")
    bodies = [body(number) for number in range(32)]
    with console.status("Measuring the offline limit …") as status:
        before = offline(checkpoint, tokens)
        status.update("Starting the service …")
        with service(checkpoint, tokens, haproxy, sets or []) as started:
            status.update("Driving the service …")
            rows = [measure(started, bodies, c, requests) for c in CONCURRENCIES]
            memory = resident(started)
        status.update("Measuring the offline limit again …")
        after = offline(checkpoint, tokens)
    limit = (before + after) / 2
    for row in rows:
        row["of_offline_limit"] = row["requests_per_s"] / limit
    result = {
        "offline_images_per_s": {"before": before, "after": after, "mean": limit},
        "num_tokens": tokens,
        "batch_size": BATCH,
        "haproxy": haproxy,
        "settings": sets or [],
        "service": rows,
        "memory": memory,
    }
    console.print(table(rows), f"Offline limit: {before:.2f} before, {after:.2f} after, images/s.")
    console.print(
        f"Resident: {memory['resident_mb']:.0f} MB in all, "
        f"{memory['proportional_mb']:.0f} MB with shared pages counted once."
    )
    console.print(f"Figures: {figures.write('service', result)}")


def offline(checkpoint: Path, tokens: int) -> float:
    """Images a second of the plain loop, in a process of its own."""
    arguments = [str(checkpoint), str(tokens), str(BATCH), str(OFFLINE_S)]
    command = [sys.executable, "-m", "loadtest.bench.offline", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


@contextmanager
def service(checkpoint: Path, tokens: int, haproxy: bool, sets: list[str]) -> Iterator[Service]:
    """`florence serve` with that checkpoint, for as long as the block runs."""
    port = free_port("127.0.0.1")
    length = [f"inference.{bound}_new_tokens={tokens}" for bound in ("min", "max")]
    flags = [f"--set={text}" for text in [*length, *sets]]
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "deployments.cli", "serve", "--port", str(port)]
        command += ["--model", str(checkpoint), "--state", state, *front(haproxy), *flags]
        environment = os.environ | {"FLORENCE_API_KEY": KEY}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}")
            yield Service(f"http://127.0.0.1:{port}", ProcessTree(process.pid))
        finally:
            process.terminate()
            process.wait(60)


def front(haproxy: bool) -> list[str]:
    """The flag that puts HAProxy in front of the service."""
    return ["--haproxy"] if haproxy else []


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    """Ask until it answers, for at most two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"{url}/ready", timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    raise SystemExit("the service did not become ready")


def measure(started: Service, bodies: list[bytes], concurrency: int, num: int) -> dict[str, Any]:
    """One loop after a short one that warms up, and what it cost the service."""
    load(started, bodies, concurrency, 2 * BATCH)
    num = num if concurrency > 1 else num // 8
    passes, cost = num_passes(started.url), started.family.cost()
    done = load(started, bodies, concurrency, num)
    passes, spent = num_passes(started.url) - passes, started.family.cost()
    milliseconds = [1000 * latency for latency in done.latencies_s]
    return {
        "concurrency": concurrency,
        "requests_per_s": done.rate,
        "p50_ms": figures.percentile(milliseconds, 50),
        "p95_ms": figures.percentile(milliseconds, 95),
        "p99_ms": figures.percentile(milliseconds, 99),
        "mean_batch": num / passes,
        "cpu_outside_ms": 1000 * spent.outside_since(cost) / num,
        "cpu_model_ms": 1000 * spent.inside_since(cost) / num,
        "num_failed": done.num_failed,
    }


def load(started: Service, bodies: list[bytes], concurrency: int, num: int) -> Load:
    """A closed loop against the service."""
    headers = {"Authorization": f"Key {KEY}", "Content-Type": "application/json"}
    return closed_loop.run(f"{started.url}/{ENDPOINT}", headers, bodies, concurrency, num)


def num_passes(url: str) -> float:
    """How often the model has run, as /metrics says."""
    text = httpx2.get(f"{url}/metrics").text
    found = re.search(r"^florence_inference_batches_total (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def resident(started: Service) -> dict[str, Any]:
    """Memory of all processes of the service, after the load."""
    return {
        "resident_mb": started.family.resident_mb(),
        "proportional_mb": started.family.proportional_mb(),
        "by_process": started.family.by_process(),
    }


ROWS = {
    "requests/s": ("requests_per_s", 2),
    "of the offline limit": ("of_offline_limit", 2),
    "p50, ms": ("p50_ms", 0),
    "p95, ms": ("p95_ms", 0),
    "p99, ms": ("p99_ms", 0),
    "mean batch": ("mean_batch", 2),
    "CPU outside the model, ms/request": ("cpu_outside_ms", 1),
    "CPU in the model, ms/request": ("cpu_model_ms", 1),
    "failed": ("num_failed", 0),
}


def table(columns: list[dict[str, Any]]) -> Table:
    """The figures for a person, a column for each number of clients."""
    shown = Table("512×512 JPEG data URIs, closed loop")
    for column in columns:
        shown.add_column(f"{column['concurrency']} clients", justify="right")
    for name, (key, digits) in ROWS.items():
        shown.add_row(name, *(f"{column[key]:.{digits}f}" for column in columns))
    return shown


if __name__ == "__main__":
    typer.run(main)
