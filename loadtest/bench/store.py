"""`python -m loadtest.bench.store`: what the SQLite and the PostgreSQL store can take.

    python -m loadtest.bench.store [--seconds 2] [--rows 100000] [--postgres URL]

Producers and workers are tasks of this one process, so its core is shared with what it measures;
its event loop is uvloop, as in Ray's processes.
Group commit is compared with a commit for each request, the two in turns.
Without a URL a server is started for the run, with fsync on, as PostgreSQL comes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from deployments.jobs.job import Job, JobOutcome, Submission
from deployments.jobs.store import RowStore
from loadtest.bench import figures
from loadtest.bench.empty_stores import EmptyStores, PostgresSchemas, SqliteFiles, Submit

PRODUCERS = (1, 8, 64)
ROUNDS = 3
KEYS = (1, 100, 1000)
BATCH = 32
LEASE_S = 600.0
ASKED = 500  # times that a question is asked
CLAIMS = 50
FILL = 500  # submits at a time
INPUT = '{"image_url":"https://example.com/images/0123456789abcdef.jpg"}'
NUMBERS = count()

Figures = dict[str, float]
ENDING = JobOutcome.done(
    {"results": {"bboxes": [{"x": 1.5, "y": 2.5, "w": 30.5, "h": 40.5, "label": "car"}] * 3}},
    inference_s=0.05,
)


def main(
    seconds: Annotated[float, typer.Option(help="How long each load lasts.")] = 2.0,
    rows: Annotated[int, typer.Option(help="Jobs in the queue that is claimed from.")] = 100_000,
    postgres: Annotated[str | None, typer.Option(help="URL of a PostgreSQL server.")] = None,
) -> None:
    """Measure, print the table, write out/bench/store.json."""
    console = Console()
    with server(postgres) as url:
        stores = {
            each.name: uvloop.run(measure(each, seconds, rows, console))
            for each in (SqliteFiles(), PostgresSchemas(url))
        }
    titles = {title: (title, 2) for found in stores.values() for title in found}
    console.print(figures.table("", stores, titles))
    result = {"seconds": seconds, "rows": rows, "batch_size": BATCH, "stores": stores}
    console.print(f"Figures: {figures.write('store', result)}")


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The server at `url`, or one that is gone after the block."""
    if url:
        yield url
        return
    from tests.jobs import postgres

    with postgres.server() as started:
        yield started


async def measure(stores: EmptyStores, seconds: float, rows: int, console: Console) -> Figures:
    found: Figures = {}
    with console.status(f"{stores.name}: submit …") as status:
        for num in PRODUCERS:
            found |= await submit(stores, num, seconds)
        status.update(f"{stores.name}: claim and finish …")
        found["claim and finish, jobs/s"] = await work(stores, seconds, rows)
        status.update(f"{stores.name}: questions …")
        found |= await ask(stores, rows // 2)
        for num in KEYS:
            status.update(f"{stores.name}: claim from {num} keys …")
            found |= await claim(stores, num, rows)
    return found


async def submit(stores: EmptyStores, num: int, seconds: float) -> Figures:
    """Submits with and without group commit, in turns; the middle one of each counts."""
    plains, groupeds = [], []
    for _ in range(ROUNDS):
        async with stores.plain() as each:
            plains.append(await produce(each, num, seconds))
        async with stores.store() as store:
            groupeds.append(await produce(store.submit, num, seconds))
    found: Figures = {}
    for name, timed in (("", middle(groupeds)), (", ungrouped", middle(plains))):
        title = f"submit, {num} producers{name}"
        found |= {f"{title}, jobs/s": timed["per_s"], f"{title}, p99, ms": timed["p99_ms"]}
    return found


async def work(stores: EmptyStores, seconds: float, rows: int) -> float:
    """Jobs that one worker claims and finishes a second, BATCH at a time."""
    async with stores.store() as store:
        await fill(store, rows)
        num, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            claimed = await store.claim("worker", BATCH, LEASE_S)
            await finish(store, claimed)
            num += len(claimed)
        return num / (time.perf_counter() - start)


async def ask(stores: EmptyStores, rows: int) -> Figures:
    """What clients and the autoscaler ask, with so many jobs in the queue."""
    async with stores.store() as store:
        await fill(store, rows)
        last = await store.submit(submission())
        questions: dict[str, Callable[[], Awaitable[Any]]] = {
            "status": lambda: store.status("key", last.id),
            "position": lambda: store.position(last.id),
            "backlog": store.backlog,
        }
        return {
            f"{name}, p50, ms": (await repeat(question, ASKED))["p50_ms"]
            for name, question in questions.items()
        }


async def claim(stores: EmptyStores, num_keys: int, rows: int) -> Figures:
    """Claims from a queue of so many keys: without limits, below their limits, and at them."""
    keys = [f"key-{nth:04}" for nth in range(num_keys)]
    async with stores.store() as store:
        await fill(store, rows, keys)
        free = await claims(store)
        await store.write_rows("api_key", [capped(key, max(1, 100 // num_keys)) for key in keys])
        below = await claims(store)
        while await store.claim("worker", BATCH, LEASE_S):
            pass
        reached = await repeat(lambda: store.claim("worker", BATCH, LEASE_S), CLAIMS)
    named = (("no limits", free), ("below limits", below), ("at limits", reached))
    return {f"claim, {num_keys} keys, {name}, p50, ms": found["p50_ms"] for name, found in named}


async def claims(store: RowStore) -> Figures:
    """Claims of BATCH; each is finished before the next."""
    took_s = []
    for _ in range(CLAIMS):
        before = time.perf_counter()
        claimed = await store.claim("worker", BATCH, LEASE_S)
        took_s.append(time.perf_counter() - before)
        await finish(store, claimed)
    return figures.latencies(took_s, sum(took_s))


async def fill(store: RowStore, rows: int, keys: Sequence[str] = ("key",)) -> None:
    for start in range(0, rows, FILL):
        given = [submission(keys[nth % len(keys)]) for nth in range(start, min(start + FILL, rows))]
        await asyncio.gather(*map(store.submit, given))


async def finish(store: RowStore, claimed: Sequence[Job]) -> None:
    await asyncio.gather(*(store.finish(one.lease, ENDING) for one in claimed))


async def produce(submit: Submit, num: int, seconds: float) -> Figures:
    """`num` tasks that submit until the time is over, each after its last acknowledgement."""
    took_s: list[float] = []
    start = time.perf_counter()

    async def producer() -> None:
        while (before := time.perf_counter()) < start + seconds:
            await submit(submission())
            took_s.append(time.perf_counter() - before)

    await asyncio.gather(*(producer() for _ in range(num)))
    return figures.latencies(took_s, time.perf_counter() - start)


async def repeat(ask: Callable[[], Awaitable[Any]], times: int) -> Figures:
    took_s = []
    for _ in range(times):
        before = time.perf_counter()
        await ask()
        took_s.append(time.perf_counter() - before)
    return figures.latencies(took_s, sum(took_s))


def submission(key_id: str = "key") -> Submission:
    """The next job of a key; ids are as long as those of the service."""
    return Submission(
        id=f"{next(NUMBERS):032x}-run",
        key_id=key_id,
        path="region-proposal",
        input=INPUT,
        base_url="https://florence.example.com",
    )


def middle(rounds: Sequence[Figures]) -> Figures:
    """The one whose rate is the median."""
    return sorted(rounds, key=lambda each: each["per_s"])[len(rounds) // 2]


def capped(key_id: str, concurrency: int) -> dict[str, Any]:
    given = {"id": key_id, "hash": key_id, "name": "", "concurrency": concurrency}
    return given | {"rate": None, "created_at": 0.0, "expires_at": None, "revoked_at": None}


if __name__ == "__main__":
    typer.run(main)
