"""A copy has every row, and its queue goes on where the source's stopped."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deployments.errors import SetupError
from deployments.jobs import copy
from deployments.jobs.api_key import ApiKey, Usage
from deployments.jobs.copy import copy_store, count_rows
from deployments.jobs.job import JobOutcome, Submission
from deployments.jobs.open import open_store
from deployments.jobs.rows import TABLES
from deployments.jobs.store import Row, RowStore
from deployments.settings import QueueSettings, StoreSettings
from deployments.webhooks.webhook import PublicKey
from tests.jobs.memory import MemoryStore
from tests.jobs.postgres import Bench

pytestmark = pytest.mark.anyio
PRIORITIES = (1, 1, 0, 1, 0, 1, 1)


@asynccontextmanager
async def empty(kind: str, folder: Path, server: str) -> AsyncIterator[RowStore]:
    """An empty store of a kind."""
    if kind == "postgres":
        bench = await Bench.open(server)
        yield bench.store
        await bench.close()
        return
    url = {"sqlite": f"sqlite:///{folder / 'queue.db'}", "memory": "memory:"}[kind]
    store = await open_store(StoreSettings(url=url), QueueSettings())
    yield store
    await store.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def source(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: str
) -> AsyncIterator[RowStore]:
    """A store with some of everything."""
    (tmp_path / "source").mkdir()
    async with empty(request.param, tmp_path / "source", postgres) as store:
        await fill(store)
        yield store


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def target(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: str
) -> AsyncIterator[RowStore]:
    """An empty store."""
    (tmp_path / "target").mkdir()
    async with empty(request.param, tmp_path / "target", postgres) as store:
        yield store


async def fill(store: RowStore) -> None:
    """Jobs in several states, with what hangs on them."""
    await store.submit(submission("ended", webhook_url="https://there/hook", trace="00-1-2-01"))
    [claimed] = await store.claim("worker", 1, 60)
    await store.finish(
        claimed.lease,
        JobOutcome.done(
            {"results": "ä"}, inference_s=0.5, num_tokens=3, truncated=True, files=("f",)
        ),
    )
    await store.submit(submission("cancelled"))
    await store.cancel("key", "cancelled")
    for number, priority in enumerate(PRIORITIES):
        await store.submit(submission(f"r{number}", priority=priority))
    await store.add_key(ApiKey(id="key", hash="h", name="n", rate=0.5, concurrency=4, adapter="a"))
    await store.add_usage([Usage(key_id="key", day="2030-01-01", path="caption", requests=3)])
    await store.put_signing_keys([PublicKey(kid="k", x="x", state="active")])
    await store.secret("uploads", b"\x00\xff")


def submission(id_: str, **more: object) -> Submission:
    """A job of the one key."""
    fields: dict[str, object] = {"id": id_, "key_id": "key", "path": "caption", "input": "{}"}
    return Submission(**fields | more)  # type: ignore[arg-type]


async def rows_of(store: RowStore) -> dict[str, list[Row]]:
    """Every row of every table; the order counts for jobs alone."""
    rows = {table: [row async for row in store.read_rows(table)] for table in TABLES}
    others = {table: sorted(rows[table], key=str) for table in TABLES[1:]}
    return rows | others


async def test_a_copy_has_every_row(source: RowStore, target: RowStore) -> None:
    """All tables are the same, and the counts are returned."""
    copied = await copy_store(source, target, lambda _: None)
    expected = {
        "request": 2 + len(PRIORITIES),
        "webhook": 1,
        "api_key": 1,
        "usage": 2,
        "signing_key": 1,
        "secret": 1,
    }
    assert expected == copied
    assert await rows_of(source) == await rows_of(target)


async def test_a_copy_keeps_the_order_of_jobs(source: RowStore, target: RowStore) -> None:
    """Workers take them by priority and arrival, and new ones after them."""
    await copy_store(source, target, lambda _: None)
    await target.submit(submission("new", priority=1))
    claimed = await target.claim("worker", 100, 60)
    expected = ["r2", "r4", "r0", "r1", "r3", "r5", "r6", "new"]
    assert expected[:4] == [each.lease.id for each in claimed]
    for each in claimed:
        await target.finish(each.lease, JobOutcome.done({}))
    rest = await target.claim("worker", 100, 60)
    assert expected[4:] == [each.lease.id for each in rest]


async def test_rows_travel_in_batches(
    source: RowStore, target: RowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is heard of, and the last one may be smaller."""
    monkeypatch.setattr(copy, "BATCH", 4)
    heard: list[int] = []
    copied = await copy_store(source, target, heard.append)
    assert heard == [4, 4, 1, 1, 1, 2, 1, 1]
    assert copied.total() == sum(heard)
    assert await rows_of(source) == await rows_of(target)


async def test_a_filled_target_is_refused(source: RowStore, target: RowStore) -> None:
    """What is there stays as it was."""
    await target.add_key(ApiKey(id="other", hash="o"))
    with pytest.raises(SetupError, match="the target has 1 rows in api_key"):
        await copy_store(source, target, lambda _: None)
    assert await count_rows(target) == {"api_key": 1}


class Busy(MemoryStore):
    """A store that still takes jobs while it is read."""

    async def read_rows(self, table: str) -> AsyncIterator[Row]:
        """The rows as they were when the table was begun."""
        async for row in super().read_rows(table):
            yield row
        await self.submit(submission("late"))


async def test_a_source_that_changes_is_found_out(target: RowStore) -> None:
    """A job that came during the copy is not lost silently."""
    busy = Busy(QueueSettings())
    await fill(busy)
    with pytest.raises(SetupError, match="table request has 10 rows, its copy 9"):
        await copy_store(busy, target, lambda _: None)
