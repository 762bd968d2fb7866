"""The queue's metrics equal what the store has."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.errors import ClientCancelled
from deployments.jobs import queue_metrics as module
from deployments.jobs.job import JobOutcome, Submission
from deployments.jobs.queue_metrics import INTERVAL_S, QueueMetrics
from deployments.jobs.store import StoreStats
from deployments.settings import QueueSettings
from deployments.telemetry.metrics import PrometheusRecorder
from tests.jobs.bench import Bench
from tests.jobs.memory import MemoryStore

pytestmark = pytest.mark.anyio


def values(recorder: PrometheusRecorder) -> dict[str, float]:
    """Every gauge of the queue and the store that was recorded, with its label's value."""
    families = text_string_to_metric_families(recorder.exposition().decode())
    samples = [sample for family in families if family.type == "gauge" for sample in family.samples]
    return {" ".join([each.name, *each.labels.values()]): each.value for each in samples}


async def submit(bench: Bench, name: str, **more: Any) -> None:
    """Submit a job called `name`."""
    given = {"id": name, "key_id": "key", "path": "caption", "input": "{}"} | more
    await bench.store.submit(Submission(**given))


async def test_metrics_follow_the_queue(bench: Bench, kind: str) -> None:
    """Queued, claimable and running jobs, the oldest one's age, each key's jobs, webhooks."""
    recorder = PrometheusRecorder()
    metrics = QueueMetrics(bench.store, recorder)
    await submit(bench, "a", webhook_url="https://example.com/hook")
    await submit(bench, "b", key_id="other")
    await bench.advance(5.0)
    await metrics.update()
    found = values(recorder)
    assert found["florence_store_up"] == 1
    assert found["florence_queue_requests queued"] == 2
    assert found["florence_queue_requests claimable"] == 2
    assert found["florence_queue_requests running"] == 0
    assert found["florence_queue_oldest_seconds"] == pytest.approx(5.0, abs=2)

    [first] = await bench.store.claim("worker", 1, 60.0)
    await metrics.update()
    assert values(recorder)["florence_queue_key_running key"] == 1
    await bench.store.finish(first.lease, JobOutcome.failed(ClientCancelled()))
    await bench.advance(30.0)
    await metrics.update()
    found = values(recorder)
    assert found["florence_queue_requests queued"] == 1
    assert found["florence_queue_key_running key"] == 0
    assert found["florence_webhooks pending"] == 1
    assert found["florence_webhooks dead"] == 0
    assert found["florence_webhooks_overdue_seconds"] == pytest.approx(30.0, abs=2)
    assert ("florence_store_bytes" in found) == (kind != "memory")
    assert ("florence_store_free_bytes" in found) == (kind == "sqlite")


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
    """The update ends all the same, and says so; when the store is back, it is up again."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.01)
    recorder, store = PrometheusRecorder(), SlowStore()
    metrics = QueueMetrics(store, recorder)
    store.hangs = True
    await metrics.update()
    assert values(recorder)["florence_store_up"] == 0
    store.hangs = False
    await metrics.update()
    assert values(recorder)["florence_store_up"] == 1


async def test_many_scrapes_are_one_question_to_the_store() -> None:
    """However often `/metrics` is read, the store is asked once in an interval."""
    store, now = SlowStore(), 100.0
    metrics = QueueMetrics(store, PrometheusRecorder(), lambda: now)
    await asyncio.gather(*(metrics.refresh() for _ in range(50)))
    assert store.asked == 1
    now += INTERVAL_S
    await metrics.refresh()
    assert store.asked == 2
