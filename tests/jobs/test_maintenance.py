"""The keeper against a real store: nothing is forgotten too early, and nothing for ever."""

import asyncio
from collections.abc import Sequence

import pytest

from deployments.errors import StoreUnavailable
from deployments.jobs import maintenance as keeper
from deployments.jobs.job import JobOutcome, JobState, Submission
from deployments.jobs.maintenance import Keeper
from deployments.jobs.memory import MemoryStore
from deployments.settings import QueueSettings
from deployments.telemetry.metrics import PrometheusRecorder

pytestmark = pytest.mark.anyio

RULES = QueueSettings()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Bench:
    """A keeper at a store whose clock stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(RULES, lambda: self.now)
        self.removed: list[str] = []
        self.recorder = PrometheusRecorder()
        self.keeper = Keeper(self.store, self.remove, self.recorder)

    async def remove(self, files: Sequence[str]) -> None:
        """Take the names of the files that go."""
        self.removed += files


async def submitted(bench: Bench, name: str) -> None:
    """A queued request."""
    await bench.store.submit(Submission(id=name, key_id="key", path="caption", input="{}"))


async def test_requests_of_dead_workers_go_back() -> None:
    """A silent worker has lost what it held; the metrics tell."""
    bench = Bench()
    await submitted(bench, "a")
    await bench.store.claim("dead", 1, 15)
    bench.now += 16

    await bench.keeper.rescue()

    status = await bench.store.status("key", "a")
    assert status
    assert status.state is JobState.QUEUED
    assert b'florence_dispatcher_retries_total{cause="lease_over"} 1.0' in (
        bench.recorder.exposition()
    )
    assert b'florence_dispatcher_rescued_total{outcome="requeued"} 1.0' in (
        bench.recorder.exposition()
    )


async def test_files_go_with_their_request() -> None:
    """Neither before its time nor after."""
    bench = Bench()
    await submitted(bench, "a")
    [claimed] = await bench.store.claim("worker", 1, 15)
    await bench.store.finish(claimed.lease, JobOutcome.done({}, files=("one.jpg", "two.jpg")))
    bench.now += RULES.result_ttl_s - 1
    await bench.keeper.prune()
    early = list(bench.removed)
    bench.now += 2
    await bench.keeper.prune()

    assert early == []
    assert bench.removed == ["one.jpg", "two.jpg"]
    assert await bench.store.result("key", "a") is None


@pytest.mark.parametrize("duty", ["rescue", "prune"])
async def test_a_store_that_is_away_is_tried_again(
    duty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on as if nothing had been."""
    bench = Bench()
    monkeypatch.setattr(keeper, "RESCUE_EVERY_S", 0.001)
    monkeypatch.setattr(keeper, "PRUNE_EVERY_S", 0.001)
    real, calls = getattr(bench.store, duty), 0

    async def stumble(limit: int = 1) -> object:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise StoreUnavailable
        return await real(limit)

    monkeypatch.setattr(bench.store, duty, stumble)
    loop = asyncio.create_task(getattr(bench.keeper, f"{duty}_forever")())
    async with asyncio.timeout(5):
        while calls < 5:  # noqa: ASYNC110, it is looked at from outside
            await asyncio.sleep(0.001)

    assert not loop.done()
    loop.cancel()
