"""What bad requests cost the good ones: `python -m loadtest.bench.isolation`.

    python -m loadtest.bench.isolation [--requests 240] [--rounds 2] [--no-haproxy]

Sixteen clients send good requests in a closed loop, by themselves and with a tenth of bad ones
sent with them, in turns: files that are no image, callers who hang up, and requests whose deadline
cannot be kept. Not one good request may fail, and the good ones should go on as fast.
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

from loadtest.bench import figures
from loadtest.bench.checkpoint import bench_checkpoint
from loadtest.bench.closed_loop import Latencies
from loadtest.bench.launch import ENDPOINT, Haproxy, LocalService, fixed_length, local_service
from loadtest.scenes import body_with, photograph

CONCURRENCY = 16
GOOD_TO_BAD = 9  # one request in ten is bad
HANG_UP_S = 0.15
Kind = Callable[[LocalService, bytes], str]
TIMES_OUT = {"X-Fal-Request-Timeout": "0.05"}


def main(
    requests: Annotated[int, typer.Option(help="Good requests of a round.")] = 240,
    rounds: Annotated[int, typer.Option(help="Rounds, each without and with bad ones.")] = 2,
    tokens: Annotated[int, typer.Option(help="Tokens of every answer.")] = 40,
    haproxy: Haproxy = True,
) -> None:
    """Measure, print the table, write out/bench/isolation.json."""
    console = Console()
    bodies = [body_with(photograph(number)) for number in range(32)]
    outcomes: Counter[str] = Counter()
    alone: list[Latencies] = []
    disturbed: list[Latencies] = []
    with local_service(bench_checkpoint(), haproxy, fixed_length(tokens)) as service:
        loop = service.loop(bodies)
        loop.run(CONCURRENCY, 2 * CONCURRENCY)
        for _ in range(rounds):
            alone.append(loop.run(CONCURRENCY, requests))
            pause_s = GOOD_TO_BAD / alone[-1].rate
            with bad_requests(service, bodies[0], pause_s, outcomes):
                disturbed.append(loop.run(CONCURRENCY, requests))
    rates = [statistics.mean(done.rate for done in each) for each in (alone, disturbed)]
    result: dict[str, Any] = {
        "num_good": sum(len(done.seconds) for done in disturbed),
        "num_good_failed": sum(done.num_failed for done in disturbed),
        "good_per_s_alone": rates[0],
        "good_per_s_with_bad": rates[1],
        "kept": rates[1] / rates[0],
    }
    rows = {name: (name, 2) for name in result}
    console.print(figures.table("16 clients with good requests", {"": result}, rows))
    console.print(f"Bad requests: {dict(outcomes)}")
    console.print(f"Figures: {figures.write('isolation', result | {'bad': outcomes})}")


@contextmanager
def bad_requests(
    service: LocalService, good: bytes, pause_s: float, outcomes: "Counter[str]"
) -> Iterator[None]:
    """Send a bad request every `pause_s` inside the block, each kind in turn."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def note(kind: Kind) -> None:
        outcomes.update([kind(service, good)])

    def send() -> None:
        for kind in cycle((corrupt, hung_up, timed_out)):
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


def corrupt(service: LocalService, _good: bytes) -> str:
    """A file that begins as a JPEG and is none."""
    status = post(service, body_with(photograph(0)[:600] + bytes(20_000)), {}).getresponse().status
    return f"corrupt: {status}"


def hung_up(service: LocalService, good: bytes) -> str:
    connection = post(service, good, {})
    time.sleep(HANG_UP_S)
    connection.close()
    return "hung up"


def timed_out(service: LocalService, good: bytes) -> str:
    return f"timed out: {post(service, good, TIMES_OUT).getresponse().status}"


def post(
    service: LocalService, content: bytes, headers: dict[str, str]
) -> http.client.HTTPConnection:
    parts = urlsplit(service.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    connection.request("POST", f"/{ENDPOINT}", content, service.headers | headers)
    return connection


if __name__ == "__main__":
    typer.run(main)
