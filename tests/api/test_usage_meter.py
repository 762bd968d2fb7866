"""What keys use, on its way to the store."""

import asyncio
from collections.abc import Sequence

import pytest

from deployments.api import usage_meter as usage
from deployments.api.usage_meter import UsageMeter
from deployments.jobs.api_key import Usage
from deployments.settings import QueueSettings
from deployments.telemetry.metrics import PrometheusRecorder
from tests.jobs.memory import MemoryStore

from .service import AwayStore

pytestmark = pytest.mark.anyio

NOON = 1_700_000_000.0 - 1_700_000_000.0 % 86400 + 43200  # 2023-11-14


class BrokenStore(MemoryStore):
    """A store with a bug, as long as `is_broken`."""

    is_broken = True

    async def add_usage(self, usages: Sequence[Usage]) -> None:
        """Add to what keys have used."""
        if self.is_broken:
            raise RuntimeError("a bug")
        await super().add_usage(usages)


def meter(store: MemoryStore) -> UsageMeter:
    """A meter whose clock stands still."""
    return UsageMeter(store, PrometheusRecorder(), clock=lambda: NOON)


def store() -> MemoryStore:
    """An empty store."""
    return MemoryStore(QueueSettings())


async def test_counts_become_rows() -> None:
    """One row for each key, day and endpoint, with all that was counted, and only once."""
    kept = store()
    usage_meter = meter(kept)
    for key_id, path in (("a", "caption"), ("a", "caption"), ("a", "ocr"), ("b", "caption")):
        usage_meter.began(key_id, path)
        usage_meter.finished(key_id, path, 0.25)
    usage_meter.began("b", "caption")
    await usage_meter.flush()
    await usage_meter.flush()

    day = "2023-11-14"
    assert await kept.usage() == [
        Usage(key_id="a", day=day, path="caption", requests=2, images=2, model_s=0.5),
        Usage(key_id="a", day=day, path="ocr", requests=1, images=1, model_s=0.25),
        Usage(key_id="b", day=day, path="caption", requests=2, images=1, model_s=0.25),
    ]


async def test_a_day_is_a_row() -> None:
    """What is used after midnight in UTC is the next day's."""
    kept, times = store(), iter((NOON, NOON + 86400))
    usage_meter = UsageMeter(kept, PrometheusRecorder(), clock=lambda: next(times))
    usage_meter.began("a", "ocr")
    usage_meter.began("a", "ocr")
    await usage_meter.flush()

    assert [used.day for used in await kept.usage()] == ["2023-11-14", "2023-11-15"]


async def test_what_the_store_did_not_take_is_kept() -> None:
    """A store that is away gets it when it is back, together with what came in between."""
    kept = AwayStore()
    usage_meter = meter(kept)
    usage_meter.began("a", "ocr")
    await usage_meter.flush()
    usage_meter.began("a", "ocr")
    kept.is_away = False
    await usage_meter.flush()

    [used] = await kept.usage()
    assert used.requests == 2


async def test_a_bug_of_the_store_is_logged_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Counting goes on, and someone can read why nothing arrives."""
    kept = BrokenStore(QueueSettings())
    usage_meter = meter(kept)
    usage_meter.began("a", "ocr")
    await usage_meter.flush()
    kept.is_broken = False
    await usage_meter.flush()

    assert [record.getMessage() for record in caplog.records] == ["usage could not be stored"]
    assert len(await kept.usage()) == 1


async def test_it_is_handed_over_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No caller has to ask for it."""
    monkeypatch.setattr(usage, "FLUSH_S", 0.001)
    taken: asyncio.Queue[Sequence[Usage]] = asyncio.Queue()

    class QueueingStore(MemoryStore):
        """A store that queues what it takes."""

        async def add_usage(self, usages: Sequence[Usage]) -> None:
            """Add to what keys have used."""
            await taken.put(usages)

    usage_meter = meter(QueueingStore(QueueSettings()))
    async with usage_meter.running(), asyncio.timeout(5):
        for _ in range(2):
            usage_meter.began("a", "ocr")
            assert [used.requests for used in await taken.get()] == [1]


async def test_the_last_second_is_handed_over_at_the_end() -> None:
    """A shutdown does not wait for the next second, and loses nothing."""
    kept = store()
    usage_meter = meter(kept)
    async with usage_meter.running():
        usage_meter.began("a", "ocr")

    assert len(await kept.usage()) == 1


async def test_a_shutdown_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs does not keep the process."""
    monkeypatch.setattr(usage, "LAST_FLUSH_S", 0.01)

    class HangingStore(MemoryStore):
        """A store that never answers."""

        async def add_usage(self, usages: Sequence[Usage]) -> None:
            """Add to what keys have used."""
            await asyncio.Event().wait()

    usage_meter = meter(HangingStore(QueueSettings()))
    async with asyncio.timeout(5), usage_meter.running():
        usage_meter.began("a", "ocr")
