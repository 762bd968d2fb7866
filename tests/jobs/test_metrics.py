"""What the queue's metrics say is what the store holds."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.errors import ClientCancelled
from deployments.jobs import metrics as module
from deployments.jobs.job import JobOutcome, Submission
from deployments.jobs.memory import MemoryStore
from deployments.jobs.metrics import Readings
from deployments.jobs.stats import StoreStats
from deployments.settings import QueueSettings
from deployments.telemetry.metrics import PrometheusRecorder
from tests.jobs.bench import Bench

pytestmark = pytest.mark.anyio


def values(recorder: PrometheusRecorder) -> dict[str, float]:
    """Every gauge of the queue and the store that was recorded, with its label's value."""
    families = text_string_to_metric_families(recorder.exposition().decode())
    samples = [sample for family in families if family.type == "gauge" for sample in family.samples]
    return {" ".join([each.name, *each.labels.values()]): each.value for each in samples}


async def submit(bench: Bench, name: str, **more: Any) -> None:
    """A request called `name`."""
    order = {"id": name, "key_id": "key", "path": "caption", "input": "{}"} | more
    await bench.store.submit(Submission(**order))


async def test_they_follow_the_queue(bench: Bench, kind: str) -> None:
    """What waits and since when, what runs and for whom, what is to be told."""
    recorder = PrometheusRecorder()
    readings = Readings(bench.store, recorder)
    await submit(bench, "a", webhook_url="https://example.com/hook")
    await submit(bench, "b", key_id="other")
    await bench.advance(5.0)
    await readings.read()
    told = values(recorder)
    assert told["florence_store_up"] == 1
    assert told["florence_queue_requests queued"] == 2
    assert told["florence_queue_requests claimable"] == 2
    assert told["florence_queue_requests running"] == 0
    assert told["florence_queue_oldest_seconds"] == pytest.approx(5.0, abs=2)

    [first] = await bench.store.claim("worker", 1, 60.0)
    await readings.read()
    assert values(recorder)["florence_queue_key_running key"] == 1
    await bench.store.finish(first.lease, JobOutcome.failed(ClientCancelled()))
    await bench.advance(30.0)
    await readings.read()
    told = values(recorder)
    assert told["florence_queue_requests queued"] == 1
    assert told["florence_queue_key_running key"] == 0
    assert told["florence_webhooks pending"] == 1
    assert told["florence_webhooks dead"] == 0
    assert told["florence_webhooks_overdue_seconds"] == pytest.approx(30.0, abs=2)
    assert ("florence_store_bytes" in told) == (kind != "memory")
    assert ("florence_store_free_bytes" in told) == (kind == "sqlite")


class SlowStore(MemoryStore):
    """A store that can be away or hang, and counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__(QueueSettings())
        self.hangs = False
        self.asked = 0

    async def stats(self, cap: int = 1, max_keys: int = 1) -> StoreStats:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        return await super().stats(cap, max_keys)


async def test_a_store_that_hangs_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading ends all the same, and says so; when the store is back, it is up again."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.01)
    recorder, store = PrometheusRecorder(), SlowStore()
    readings = Readings(store, recorder)
    store.hangs = True
    await readings.read()
    assert values(recorder)["florence_store_up"] == 0
    store.hangs = False
    await readings.read()
    assert values(recorder)["florence_store_up"] == 1


async def test_many_who_ask_are_one_reading() -> None:
    """However often `/metrics` is scraped, the store is asked now and then."""
    store = SlowStore()
    readings = Readings(store, PrometheusRecorder(), every_s=60.0)
    await asyncio.gather(*(readings.refresh() for _ in range(50)))
    assert store.asked == 1


async def test_they_go_on() -> None:
    """The store is read again and again, also when it was away."""
    store = SlowStore()
    loop = asyncio.create_task(Readings(store, PrometheusRecorder(), every_s=0.0).read_forever())
    async with asyncio.timeout(60):
        while store.asked < 3:  # noqa: ASYNC110, it is looked at from outside
            await asyncio.sleep(0.002)
    loop.cancel()
