"""A call whose connection was lost is made again, and counts once whether it was applied or not."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from asyncpg.exceptions import ConnectionDoesNotExistError
from asyncpg.transaction import Transaction
from ray.exceptions import RayActorError

from deployments.jobs.api_key import ApiKey, Usage
from deployments.jobs.job import Submission
from deployments.jobs.sqlite import SqliteStore
from deployments.jobs.sqlite import owner_actor as owner
from deployments.jobs.sqlite.owner_actor import Call, SqliteOwnerClient, surviving
from deployments.jobs.store import Store
from deployments.settings import QueueSettings
from tests.jobs.postgres import Bench

pytestmark = pytest.mark.anyio

RULES = QueueSettings()
RETRY_S = 10.0
USAGE = Usage(key_id="key", day="2030-01-01", path="caption", requests=1, model_s=0.5)


class Outage:
    """Loses the connection of one call, after it was applied or before."""

    def __init__(self) -> None:
        self._is_due = False
        self._applied = False

    def plan(self, applied: bool) -> None:
        """Lose the next call."""
        self._is_due, self._applied = True, applied

    def strikes(self, applied: bool) -> bool:
        """Whether the connection is lost now, where the call has been `applied` or not."""
        if not self._is_due or applied != self._applied:
            return False
        self._is_due = False
        return True


@pytest.fixture
def outage() -> Outage:
    """None is planned yet."""
    return Outage()


@pytest.fixture(params=["owner", "postgres"])
async def store(
    request: pytest.FixtureRequest,
    url: str | None,
    tmp_path: Path,
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Store]:
    """A store that can lose its connection."""
    if request.param == "owner":
        kept = SqliteStore.open(tmp_path / "queue.db", RULES)
        monkeypatch.setattr(owner, "RETRY_DELAY_S", 0.0)
        yield SqliteOwnerClient(surviving(losing_answers(kept, outage)), reader=None)
        await kept.close()
        return
    monkeypatch.setattr(Transaction, "__aexit__", losing_commits(outage))
    assert url
    bench = await Bench.open(url)
    yield await bench.another(retry_s=RETRY_S)
    await bench.close()


def losing_answers(store: SqliteStore, outage: Outage) -> owner.Send:
    """How calls get to an owner that dies when the outage strikes; the next one has its file."""

    async def send(calls: Sequence[Call]) -> Sequence[Any]:
        if outage.strikes(applied=False):
            raise RayActorError
        travelled = pickle.loads(pickle.dumps(calls))
        answers = await asyncio.gather(*(call(store) for call in travelled), return_exceptions=True)
        if outage.strikes(applied=True):
            raise RayActorError
        return answers

    return send


def losing_commits(outage: Outage) -> Callable[..., Any]:
    """The end of a transaction whose connection is lost when the outage strikes."""
    end = Transaction.__aexit__

    async def end_or_lose(self: Transaction, *raised: Any) -> Any:
        if raised == (None, None, None) and outage.strikes(applied=False):
            raise ConnectionDoesNotExistError("lost before the commit")
        await end(self, *raised)
        if raised == (None, None, None) and outage.strikes(applied=True):
            raise ConnectionDoesNotExistError("lost after the commit")

    return end_or_lose


@pytest.mark.parametrize("applied", [True, False])
async def test_a_request_counts_once_against_its_rate(
    store: Store, outage: Outage, applied: bool
) -> None:
    """Of two that may begin at once, the second still may."""
    outage.plan(applied)
    waits = [await store.check_rate_limit("key", 0.001, 2) for _ in range(3)]
    assert waits[:2] == [0.0, 0.0]
    assert waits[2] > 0


@pytest.mark.parametrize("applied", [True, False])
async def test_usage_is_added_once(store: Store, outage: Outage, applied: bool) -> None:
    """An invoice is right after an outage."""
    outage.plan(applied)
    await store.add_usage([USAGE])
    assert await store.usage() == [USAGE]


@pytest.mark.parametrize("applied", [True, False])
async def test_a_run_takes_one_slot(store: Store, outage: Outage, applied: bool) -> None:
    """It is admitted, and the next one fills the key's limit of two."""
    await store.add_key(ApiKey(id="key", hash="h", concurrency=2))
    outage.plan(applied)
    entered = [await store.acquire_slot("key", f"run {nth}", 60.0) for nth in range(3)]
    assert entered == [True, True, False]


@pytest.mark.parametrize("applied", [True, False])
async def test_a_submit_makes_one_job(store: Store, outage: Outage, applied: bool) -> None:
    """It is found by its id."""
    submission = Submission(id="job", key_id="key", path="caption", input="{}")
    outage.plan(applied)
    assert (await store.submit(submission)).id == "job"
    assert (await store.backlog()).queued == 1
