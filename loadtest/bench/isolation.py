"""What bad requests cost the good ones: `python -m loadtest.bench.isolation`.

    python -m loadtest.bench.isolation [--requests 240] [--rounds 2] [--no-haproxy]

Sixteen clients send good requests in a closed loop, by themselves and with a tenth of bad ones
beside them, in turns: files that are no image, callers who hang up, and requests that are too
late to begin. Not one good request may fail, and the good ones should go on as fast.
"""

import http.client
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from loadtest.bench import figures
from loadtest.bench.checkpoint import bench_checkpoint
from loadtest.bench.closed_loop import Load
from loadtest.bench.service import ENDPOINT, KEY, Service, load, service
from loadtest.scenes import body, body_with, photograph

CONCURRENCY = 16
GOOD_TO_BAD = 9  # one request in ten is bad
HANG_UP_S = 0.15
Kind = Callable[[str, bytes], str]
LATE = {"X-Fal-Request-Timeout": "0.05"}


def main(
    requests: Annotated[int, typer.Option(help="Good requests of a round.")] = 240,
    rounds: Annotated[int, typer.Option(help="Rounds, each without and with bad ones.")] = 2,
    tokens: Annotated[int, typer.Option(help="Tokens of every answer.")] = 40,
    haproxy: Annotated[bool, typer.Option(help="HAProxy in front, as on a cluster.")] = True,
) -> None:
    """Measure, print the table, write out/bench/isolation.json."""
    console = Console()
    checkpoint = bench_checkpoint(figures.FOLDER / "checkpoint")
    bodies = [body(number) for number in range(32)]
    outcomes: Counter[str] = Counter()
    alone: list[Load] = []
    beside: list[Load] = []
    with service(checkpoint, tokens, haproxy, []) as started:
        load(started, bodies, CONCURRENCY, 2 * CONCURRENCY)
        for _ in range(rounds):
            alone.append(load(started, bodies, CONCURRENCY, requests))
            pause_s = GOOD_TO_BAD / alone[-1].rate
            with trouble(started, bodies[0], pause_s, outcomes):
                beside.append(load(started, bodies, CONCURRENCY, requests))
    result: dict[str, Any] = {
        "num_good": sum(len(done.latencies_s) for done in beside),
        "num_good_failed": sum(done.num_failed for done in beside),
        "bad": dict(outcomes),
        "good_per_s_alone": statistics.mean(done.rate for done in alone),
        "good_per_s_beside_bad": statistics.mean(done.rate for done in beside),
    }
    result["kept"] = result["good_per_s_beside_bad"] / result["good_per_s_alone"]
    console.print(table(result), f"Figures: {figures.write('isolation', result)}")


@contextmanager
def trouble(
    started: Service, good: bytes, pause_s: float, outcomes: "Counter[str]"
) -> Iterator[None]:
    """Send a bad request every `pause_s` inside the block, each kind in turn."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def note(kind: Kind) -> None:
        outcomes.update([kind(started.url, good)])

    def send() -> None:
        for kind in cycle((corrupt, hung_up, late)):
            if over.wait(pause_s):
                return
            threads.append(threading.Thread(target=note, args=(kind,)))
            threads[-1].start()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        for thread in (sender, *threads):
            thread.join()


def corrupt(url: str, _good: bytes) -> str:
    """A file that begins as a JPEG and is none."""
    status = post(url, body_with(photograph(0)[:600] + bytes(20_000)), {}).getresponse().status
    return f"corrupt: {status}"


def hung_up(url: str, good: bytes) -> str:
    """A caller who leaves before the answer."""
    connection = post(url, good, {})
    time.sleep(HANG_UP_S)
    connection.close()
    return "hung up"


def late(url: str, good: bytes) -> str:
    """A request that must begin sooner than it can."""
    return f"late: {post(url, good, LATE).getresponse().status}"


def post(url: str, content: bytes, headers: dict[str, str]) -> http.client.HTTPConnection:
    """A connection on which a request has been sent."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    own = {"Authorization": f"Key {KEY}", "Content-Type": "application/json"}
    connection.request("POST", f"/{ENDPOINT}", content, own | headers)
    return connection


def table(result: dict[str, Any]) -> Table:
    """The figures for a person."""
    shown = Table("16 clients with good requests", "")
    for name, value in result.items():
        shown.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    return shown


if __name__ == "__main__":
    typer.run(main)
