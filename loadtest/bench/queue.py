"""`make bench-queue`: what the queue costs over HTTP, and what a hundred thousand requests weigh.

    python -m loadtest.bench.queue [--seconds 8] [--depth 100000] [--haproxy] [--store URL]

The model stands still (see held.py). Submits carry a URL, so they are as small as a client's can
be; `GET /health` in the same run tells what Serve's proxy and the Ingress take of every request.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deployments.jobs.job import Submission
from deployments.jobs.open import open_store
from deployments.settings import QueueSettings, StoreSettings, hash_key
from loadtest.bench import figures
from loadtest.bench.connection import Answer, Connection, message
from loadtest.bench.held import ENDPOINT, Held, held
from loadtest.bench.service import KEY

SUBMITTERS = 16
POLLERS = 50
POLL_EVERY_S = 0.1
WARM_UP = 300
FILL_AT_ONCE = 1000
BESIDE = f"submit, {SUBMITTERS} clients, beside the polls"
POLL = f"poll, {POLLERS} clients, every {POLL_EVERY_S * 1000:.0f} ms"
ID = re.compile(rb'"request_id":"([^"]+)"')


@dataclass
class Calls:
    """Calls of one kind: what each took in seconds, and how many were not answered well."""

    took_s: list[float] = field(default_factory=list)
    num_failed: int = 0

    async def make(self, connection: Connection, request: bytes) -> Answer:
        """One call."""
        began = time.perf_counter()
        answer = await connection.ask(request)
        self.took_s.append(time.perf_counter() - began)
        self.num_failed += answer.status not in (200, 202)
        return answer

    def figures(self, wall_s: float) -> dict[str, Any]:
        """Calls per second of `wall_s`, latencies in ms, failures."""
        milliseconds = [1000 * each for each in self.took_s]
        return {
            "per_s": len(milliseconds) / wall_s,
            "p50_ms": figures.percentile(milliseconds, 50),
            "p99_ms": figures.percentile(milliseconds, 99),
            "num_failed": self.num_failed,
        }


def main(
    seconds: Annotated[float, typer.Option(help="Length of each measurement.")] = 8.0,
    depth: Annotated[int, typer.Option(help="Requests to queue in the end; 0 for none.")] = 100_000,
    haproxy: Annotated[
        bool, typer.Option("--haproxy", help="HAProxy in front, as on a cluster.")
    ] = False,
    store: Annotated[str | None, typer.Option(help="Another store than SQLite.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A setting of the service."),
    ] = None,
) -> None:
    """Measure, print the tables, write out/bench/queue.json."""
    console = Console()
    with (
        console.status("Starting the service …") as status,
        held(2 * depth + 100_000, store, haproxy, sets or []) as started,
    ):
        bench = Bench(started, seconds)
        status.update("Measuring …")
        rows = asyncio.run(bench.measure())
        status.update("Filling the queue …")
        depths = asyncio.run(bench.deepen(depth)) if depth else []
    result = {"haproxy": haproxy, "settings": sets or [], "calls": rows, "depths": depths}
    console.print(call_table(rows), *([memory_table(depths)] if depths else []))
    name = "queue-haproxy" if haproxy else "queue"
    console.print(f"Figures: {figures.write(name, result)}")


class Bench:
    """The measurements, one after the other."""

    def __init__(self, started: Held, seconds: float) -> None:
        self._started = started
        self._seconds = seconds
        self._health = message("GET", "/health", KEY)
        self._submit = message("POST", f"/queue/{ENDPOINT}", KEY, started.body)

    async def measure(self) -> dict[str, Any]:
        """Each kind of call alone, from one client and from many; then submits beside polls."""
        path = await self._warm_up()
        status = message("GET", path, KEY)
        rows = {
            "health, 1 client": await self._alone(self._health, 1),
            "status, 1 client": await self._alone(status, 1),
            "submit, 1 client": await self._alone(self._submit, 1),
            f"health, {SUBMITTERS} clients": await self._alone(self._health, SUBMITTERS),
            f"status, {SUBMITTERS} clients": await self._alone(status, SUBMITTERS),
            f"submit, {SUBMITTERS} clients": await self._alone(self._submit, SUBMITTERS),
        }
        return rows | await self._beside_polls()

    async def deepen(self, depth: int) -> list[dict[str, Any]]:
        """Memory and latencies at no, half and full depth, after the same calls at each."""
        rows = [await self._at_depth(0)]
        for part in (depth // 2, depth - depth // 2):
            await fill(self._started, part)
            rows.append(await self._at_depth(rows[-1]["added"] + part))
        return rows

    async def _warm_up(self) -> str:
        """Some of everything; the path of a queued request's status."""
        connection = await Connection.open(self._started.url)
        answer = await connection.ask(self._submit)
        path = status_path(answer)
        for request in (self._submit, message("GET", path, KEY), self._health):
            for _ in range(WARM_UP):
                await connection.ask(request)
        connection.close()
        return path

    async def _alone(self, request: bytes, num_clients: int) -> dict[str, Any]:
        """A closed loop of clients that all send `request`."""
        calls = Calls()
        before = self._started.family.seconds_by_process()
        await together(self._started.url, num_clients, self._loop(calls, request))
        return calls.figures(self._seconds) | self._cost(before, calls)

    async def _beside_polls(self) -> dict[str, Any]:
        """Submits in a closed loop, while others ask for the status of theirs time and again."""
        submits, polls = Calls(), Calls()
        before = self._started.family.seconds_by_process()
        await asyncio.gather(
            together(self._started.url, SUBMITTERS, self._loop(submits, self._submit)),
            together(self._started.url, POLLERS, self._poll(polls)),
        )
        cost = self._cost(before, submits, polls)
        return {BESIDE: submits.figures(self._seconds) | cost, POLL: polls.figures(self._seconds)}

    def _loop(self, calls: Calls, request: bytes) -> "Client":
        async def client(connection: Connection) -> None:
            end = time.perf_counter() + self._seconds
            while time.perf_counter() < end:
                await calls.make(connection, request)

        return client

    def _poll(self, calls: Calls) -> "Client":
        async def client(connection: Connection) -> None:
            status = message("GET", status_path(await connection.ask(self._submit)), KEY)
            end = time.perf_counter() + self._seconds
            while time.perf_counter() < end:
                await calls.make(connection, status)
                await asyncio.sleep(POLL_EVERY_S)

        return client

    def _cost(self, before: dict[str, float], *calls: Calls) -> dict[str, Any]:
        """Processor time of the service since `before`: for each call, and as shares of a core."""
        now = self._started.family.seconds_by_process()
        used = {name: now[name] - before.get(name, 0.0) for name in now}
        num_calls = sum(len(each.took_s) for each in calls)
        return {
            "cpu_ms": 1000 * sum(used.values()) / num_calls,
            "cores": {name: round(s / self._seconds, 2) for name, s in used.items() if s > 0.05},
        }

    async def _at_depth(self, added: int) -> dict[str, Any]:
        """The same calls as at every depth, then the memory."""
        rows = await self._beside_polls()
        connection = await Connection.open(self._started.url)
        path = status_path(await connection.ask(self._submit))
        connection.close()
        quiet = await self._alone(message("GET", path, KEY), 1)
        submits = rows[BESIDE]
        return {
            "added": added,
            "submits_per_s": submits["per_s"],
            "submit_p50_ms": submits["p50_ms"],
            "status_p50_ms": quiet["p50_ms"],
            "resident_mb": self._started.family.by_process(),
        }


Client = Callable[[Connection], Awaitable[None]]


async def together(url: str, num: int, client: Client) -> None:
    """Run `num` clients side by side, each on a connection of its own."""
    connections = [await Connection.open(url) for _ in range(num)]
    await asyncio.gather(*map(client, connections))
    for connection in connections:
        connection.close()


def status_path(submitted: Answer) -> str:
    """Where to ask for the status of the request that was submitted."""
    found = ID.search(submitted.body)
    if submitted.status != 200 or not found:
        raise SystemExit(f"a submit was answered {submitted.status}: {submitted.body.decode()}")
    return f"/queue/fal-ai/florence-2-large/requests/{found[1].decode()}/status"


async def fill(started: Held, num: int) -> None:
    """Queue `num` requests by way of the store, beside its owner: over HTTP it takes too long."""
    store = await open_store(StoreSettings(url=started.store), QueueSettings(max_queued=10**7))
    for first in range(0, num, FILL_AT_ONCE):
        numbers = range(first, min(first + FILL_AT_ONCE, num))
        await asyncio.gather(*(store.submit(submission(started, n)) for n in numbers))
    await store.close()


def submission(started: Held, number: int) -> Submission:
    """A request like those that are submitted over HTTP."""
    return Submission(
        id=f"{time.time_ns()}-{number}",
        key_id=hash_key(KEY)[:12],
        path="caption",
        input=started.body.decode(),
        base_url=started.url,
    )


def call_table(rows: dict[str, Any]) -> Table:
    """Each kind of call for a person."""
    shown = Table("call", "per s", "p50, ms", "p99, ms", "failed", "CPU, ms", "cores")
    for name, row in rows.items():
        cpu = f"{row['cpu_ms']:.2f}" if "cpu_ms" in row else ""
        latencies = f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}"
        failed = str(row["num_failed"])
        busiest = told(row.get("cores", {}))
        shown.add_row(name, f"{row['per_s']:.0f}", *latencies, failed, cpu, busiest)
    return shown


def told(cores: dict[str, float]) -> str:
    """The three busiest processes."""
    busiest = sorted(cores.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name.rpartition(':')[2]} {share}" for name, share in busiest)


def memory_table(depths: list[dict[str, Any]]) -> Table:
    """Resident memory of each process at each depth, for a person."""
    shown = Table("resident, MB")
    for row in depths:
        shown.add_column(f"{row['added']} more queued", justify="right")
    for name in depths[0]["resident_mb"]:
        shown.add_row(name, *(f"{row['resident_mb'].get(name, 0.0):.0f}" for row in depths))
    for name, key in (
        ("submits/s beside polls", "submits_per_s"),
        ("status p50, ms", "status_p50_ms"),
    ):
        shown.add_row(name, *(f"{row[key]:.1f}" for row in depths))
    return shown


if __name__ == "__main__":
    typer.run(main)
