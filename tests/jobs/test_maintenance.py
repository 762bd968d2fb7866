"""Maintenance of a real store: jobs of dead workers go back, old jobs and their files go."""

import asyncio

import pytest

from deployments.errors import StoreUnavailable
from deployments.jobs.job import JobOutcome, JobState, Submission
from deployments.jobs.maintenance import Maintenance, every
from deployments.settings import QueueSettings
from deployments.telemetry.metrics import PrometheusRecorder
from tests.jobs.memory import MemoryStore

pytestmark = pytest.mark.anyio

RULES = QueueSettings()


class Bench:
    """A store with one queued job and a clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(RULES, lambda: self.now)
        self.removed: list[str] = []
        self.recorder = PrometheusRecorder()
        self.maintenance = Maintenance(self.store, self.removed.append, self.recorder)


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.store.submit(Submission(id="a", key_id="key", path="caption", input="{}"))
    return bench


async def test_jobs_of_dead_workers_go_back(bench: Bench) -> None:
    """When the lease has expired; the metrics count it."""
    await bench.store.claim("dead", 1, 15)
    bench.now += 16
    await bench.maintenance.rescue()

    status = await bench.store.status("key", "a")
    assert status
    assert status.state is JobState.QUEUED
    exposition = bench.recorder.exposition()
    assert b'florence_dispatcher_retries_total{cause="lease_over"} 1.0' in exposition
    assert b'florence_dispatcher_rescued_total{outcome="requeued"} 1.0' in exposition


async def test_files_go_with_their_job(bench: Bench) -> None:
    """Neither before it expires nor later."""
    [job] = await bench.store.claim("worker", 1, 15)
    await bench.store.finish(job.lease, JobOutcome.done({}, files=("one.jpg", "two.jpg")))
    bench.now += RULES.result_ttl_s - 1
    await bench.maintenance.prune()
    early = list(bench.removed)
    bench.now += 2
    await bench.maintenance.prune()

    assert early == []
    assert bench.removed == ["one.jpg", "two.jpg"]
    assert await bench.store.result("key", "a") is None


async def test_periodic_work_goes_on_after_the_store_was_unavailable() -> None:
    """Whatever the work is: heartbeats, rescues, prunes, metrics."""
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise StoreUnavailable

    task = asyncio.create_task(every(0.0, work))
    async with asyncio.timeout(5):
        while calls < 5:  # noqa: ASYNC110, it is looked at from outside
            await asyncio.sleep(0)

    assert not task.done()
    task.cancel()
