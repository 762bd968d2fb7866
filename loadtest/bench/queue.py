"""`make bench-queue`: what the queue costs over HTTP, and the memory of a hundred thousand jobs.

    python -m loadtest.bench.queue [--seconds 8] [--depth 100000] [--haproxy] [--store URL]

The model is idle: the Dispatcher runs one job at a time (`queue.max_running=1`), and the first one
waits for its image from a host that never sends it. Submits carry a URL, so they are as small as a
client's can be; `GET /health` in the same run is what Serve's proxy and the Ingress take of every
request.
"""

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console

from deployments.jobs.job import Submission
from deployments.jobs.open import open_store
from deployments.settings import QueueSettings, StoreSettings, hash_key
from loadtest.bench import figures
from loadtest.bench.http_connection import Connection, RawAnswer, message
from loadtest.bench.launch import KEY, LocalService, Sets, local_service

ENDPOINT = "fal-ai/florence-2-large/caption"
FOREVER_S = 86400
SUBMITTERS = 16
POLLERS = 50
POLL_EVERY_S = 0.1
WARM_UP = 300
FILL_AT_ONCE = 1000
DURING_POLLS = f"submit, {SUBMITTERS} clients, during the polls"
POLL = f"poll, {POLLERS} clients, every {POLL_EVERY_S * 1000:.0f} ms"
ID = re.compile(rb'"request_id":"([^"]+)"')
COLUMNS = {
    "per s": "per_s",
    "p50, ms": "p50_ms",
    "p99, ms": "p99_ms",
    "failed": "num_failed",
    "CPU, ms": "cpu_ms",
}
DEPTHS = {
    "resident, MB": ("resident_mb", 0),
    "submits/s during polls": ("submits_per_s", 1),
    "status p50, ms": ("status_p50_ms", 1),
}
Client = Callable[[Connection], Awaitable[None]]


@dataclass
class TimedCalls:
    """Calls of one kind: what each took in seconds, and how many were not answered well."""

    took_s: list[float] = field(default_factory=list)
    num_failed: int = 0

    async def make(self, connection: Connection, request: bytes) -> RawAnswer:
        began = time.perf_counter()
        answer = await connection.ask(request)
        self.took_s.append(time.perf_counter() - began)
        self.num_failed += answer.status not in (200, 202)
        return answer

    def figures(self, wall_s: float) -> dict[str, Any]:
        """Calls per second of `wall_s`, latencies in ms, failures."""
        return figures.latencies(self.took_s, wall_s) | {"num_failed": self.num_failed}


def main(
    seconds: Annotated[float, typer.Option(help="Length of each measurement.")] = 8.0,
    depth: Annotated[int, typer.Option(help="Jobs to queue in the end; 0 for none.")] = 100_000,
    haproxy: Annotated[
        bool, typer.Option("--haproxy", help="HAProxy in front, as on a cluster.")
    ] = False,
    store: Annotated[str | None, typer.Option(help="Another store than SQLite.")] = None,
    sets: Sets = None,
) -> None:
    """Measure, print the tables, write out/bench/queue.json."""
    console = Console()
    with (
        console.status("Starting the service …") as status,
        stuck_service(2 * depth + 100_000, store, haproxy, sets or []) as (service, body),
    ):
        bench = QueueBench(service, body, seconds)
        status.update("Measuring …")
        rows = asyncio.run(bench.measure())
        status.update("Filling the queue …")
        depths = asyncio.run(bench.deepen(depth)) if depth else {}
    result = {"haproxy": haproxy, "settings": sets or [], "calls": rows, "depths": depths}
    columns = {
        title: {name: row[key] for name, row in rows.items() if key in row}
        for title, key in COLUMNS.items()
    }
    console.print(figures.table("call", columns, {name: (name, 1) for name in rows}))
    if depths:
        console.print(figures.table("more jobs in the queue", depths, DEPTHS))
    name = "queue-haproxy" if haproxy else "queue"
    console.print(f"Figures: {figures.write(name, result)}")


@contextmanager
def stuck_service(
    max_queued: int, store: str | None, haproxy: bool, sets: list[str]
) -> Iterator[tuple[LocalService, bytes]]:
    """A service whose first job never ends, and the body of a request."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, answers none
        host = "{}:{}".format(*server.getsockname())
        stuck = [
            "queue.max_running=1",
            f"queue.max_queued={max_queued}",
            f"preprocess.allowed_hosts=['{host}']",
            f"preprocess.fetch_timeout_s={FOREVER_S}",
            f"ingress.deadline_s={FOREVER_S}",
        ]
        with local_service(haproxy=haproxy, sets=[*stuck, *sets], store=store) as service:
            body = f'{{"image_url":"http://{host}/image.png"}}'.encode()
            submit_first(service, body)
            yield service, body


def submit_first(service: LocalService, body: bytes) -> None:
    """Submit the job that never ends, and wait until the Dispatcher has it."""
    with httpx2.Client(headers=service.headers, trust_env=False) as http:
        url = f"{service.url}/queue/{ENDPOINT}"
        first = http.post(url, content=body).raise_for_status().json()
        deadline = time.monotonic() + 30
        while http.get(first["status_url"]).json()["status"] != "IN_PROGRESS":
            if time.monotonic() > deadline:
                raise SystemExit("the Dispatcher does not take the first job")
            time.sleep(0.05)


class QueueBench:
    def __init__(self, service: LocalService, body: bytes, seconds: float) -> None:
        self._service = service
        self._body = body
        self._seconds = seconds
        self._health = message("GET", "/health", KEY)
        self._submit = message("POST", f"/queue/{ENDPOINT}", KEY, body)

    async def measure(self) -> dict[str, Any]:
        """Each kind of call alone, from one client and from many; then submits during polls."""
        status = message("GET", await self._warm_up(), KEY)
        calls = {"health": self._health, "status": status, "submit": self._submit}
        rows = {}
        for num in (1, SUBMITTERS):
            for name, request in calls.items():
                rows[f"{name}, {num} clients"] = await self._alone(request, num)
        return rows | await self._during_polls()

    async def deepen(self, depth: int) -> dict[str, Any]:
        """Memory and latencies with no, half and all of the jobs, after the same calls at each."""
        rows = {"0": await self._at_depth()}
        for part, added in ((depth // 2, depth // 2), (depth - depth // 2, depth)):
            await self._fill(part)
            rows[str(added)] = await self._at_depth()
        return rows

    async def _warm_up(self) -> str:
        """Some of everything; the path of a queued job's status."""
        connection = await Connection.open(self._service.url)
        path = status_path(await connection.ask(self._submit))
        for request in (self._submit, message("GET", path, KEY), self._health):
            for _ in range(WARM_UP):
                await connection.ask(request)
        connection.close()
        return path

    async def _alone(self, request: bytes, num_clients: int) -> dict[str, Any]:
        calls = TimedCalls()
        before = self._service.processes.cost()
        await self._together(num_clients, self._repeat(calls, request))
        return calls.figures(self._seconds) | self._cost(before.total_s, calls)

    async def _during_polls(self) -> dict[str, Any]:
        """Submits in a closed loop, while others ask for the status of theirs again and again."""
        submits, polls = TimedCalls(), TimedCalls()
        before = self._service.processes.cost()
        await asyncio.gather(
            self._together(SUBMITTERS, self._repeat(submits, self._submit)),
            self._together(POLLERS, self._poll(polls)),
        )
        cost = self._cost(before.total_s, submits, polls)
        submitted = submits.figures(self._seconds) | cost
        return {DURING_POLLS: submitted, POLL: polls.figures(self._seconds)}

    async def _together(self, num: int, client: Client) -> None:
        connections = [await Connection.open(self._service.url) for _ in range(num)]
        await asyncio.gather(*map(client, connections))
        for connection in connections:
            connection.close()

    def _repeat(self, calls: TimedCalls, request: bytes) -> Client:
        async def client(connection: Connection) -> None:
            end = time.perf_counter() + self._seconds
            while time.perf_counter() < end:
                await calls.make(connection, request)

        return client

    def _poll(self, calls: TimedCalls) -> Client:
        async def client(connection: Connection) -> None:
            status = message("GET", status_path(await connection.ask(self._submit)), KEY)
            end = time.perf_counter() + self._seconds
            while time.perf_counter() < end:
                await calls.make(connection, status)
                await asyncio.sleep(POLL_EVERY_S)

        return client

    def _cost(self, before_s: float, *calls: TimedCalls) -> dict[str, Any]:
        """Processor time of the service for each call since `before_s`."""
        num_calls = sum(len(each.took_s) for each in calls)
        return {"cpu_ms": 1000 * (self._service.processes.cost().total_s - before_s) / num_calls}

    async def _at_depth(self) -> dict[str, Any]:
        """The same calls as at every depth, then the memory."""
        submits = (await self._during_polls())[DURING_POLLS]
        connection = await Connection.open(self._service.url)
        path = status_path(await connection.ask(self._submit))
        connection.close()
        quiet = await self._alone(message("GET", path, KEY), 1)
        return {
            "submits_per_s": submits["per_s"],
            "submit_p50_ms": submits["p50_ms"],
            "status_p50_ms": quiet["p50_ms"],
            "resident_mb": self._service.processes.resident_mb(),
            "by_process": self._service.processes.by_process(),
        }

    async def _fill(self, num: int) -> None:
        """Queue `num` jobs through the store: over HTTP it takes too long."""
        settings = StoreSettings(url=self._service.store)
        store = await open_store(settings, QueueSettings(max_queued=10**7))
        for first in range(0, num, FILL_AT_ONCE):
            numbers = range(first, min(first + FILL_AT_ONCE, num))
            await asyncio.gather(*(store.submit(self._submission(n)) for n in numbers))
        await store.close()

    def _submission(self, number: int) -> Submission:
        return Submission(
            id=f"{time.time_ns()}-{number}",
            key_id=hash_key(KEY)[:12],
            path="caption",
            input=self._body.decode(),
            base_url=self._service.url,
        )


def status_path(submitted: RawAnswer) -> str:
    found = ID.search(submitted.body)
    if submitted.status != 200 or not found:
        raise SystemExit(f"a submit was answered {submitted.status}: {submitted.body.decode()}")
    return f"/queue/fal-ai/florence-2-large/requests/{found[1].decode()}/status"


if __name__ == "__main__":
    typer.run(main)
