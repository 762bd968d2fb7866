"""An instrumented store behaves like the store that it wraps."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.errors import QueueFull, StoreUnavailable
from deployments.jobs.instrumented import InstrumentedStore
from deployments.jobs.job import Submission
from deployments.jobs.store_retry import retried
from deployments.settings import QueueSettings
from deployments.telemetry.metrics import PrometheusRecorder
from tests.jobs.memory import MemoryStore

pytestmark = pytest.mark.anyio


class AwayStore(MemoryStore):
    """A store whose claims find no job."""

    async def claim(self, *args: Any) -> Any:
        raise StoreUnavailable


def submission(name: str) -> Submission:
    """A job."""
    return Submission(id=name, key_id="key", path="caption", input="{}")


def numbers(recorder: PrometheusRecorder, name: str) -> dict[str, float]:
    """A metric's values by operation."""
    families = text_string_to_metric_families(recorder.exposition().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {sample.labels["operation"]: sample.value for sample in samples}


async def test_each_call_is_measured_under_its_name() -> None:
    """Its answer and its time; a refusal is an answer, and no failure of the store."""
    recorder = PrometheusRecorder()
    store = InstrumentedStore(MemoryStore(QueueSettings(max_queued=1)), recorder)
    assert (await store.submit(submission("a"))).created
    with pytest.raises(QueueFull):
        await store.submit(submission("b"))
    assert await store.position("a") == 0
    assert numbers(recorder, "florence_store_call_seconds_count") == {"submit": 2, "position": 1}
    assert numbers(recorder, "florence_store_errors_total") == {}


async def test_a_store_that_is_away_is_counted() -> None:
    """By operation; the caller gets the same error."""
    recorder = PrometheusRecorder()
    store = InstrumentedStore(AwayStore(QueueSettings()), recorder)
    with pytest.raises(StoreUnavailable):
        await store.claim("worker", 1, 60.0)
    assert numbers(recorder, "florence_store_errors_total") == {"claim": 1}
    assert numbers(recorder, "florence_store_call_seconds_count") == {"claim": 1}


class RestartingStore(MemoryStore):
    """A store whose first claims find it unavailable, and are retried."""

    retry_s = 60.0
    failures = 2

    @retried
    async def claim(self, *args: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable
        return []


async def test_each_failed_attempt_is_counted() -> None:
    """So an outage is seen while it lasts, although the caller gets its answer."""
    recorder = PrometheusRecorder()
    store = InstrumentedStore(RestartingStore(QueueSettings()), recorder)
    assert await store.claim("worker", 1, 60.0) == []
    assert numbers(recorder, "florence_store_errors_total") == {"claim": 2}
    assert numbers(recorder, "florence_store_call_seconds_count") == {"claim": 1}
