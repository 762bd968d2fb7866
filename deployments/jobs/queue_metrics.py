"""Metrics of the queue and its store, read from the store."""

import asyncio
import time
from collections.abc import Callable, Mapping

from deployments.errors import StoreUnavailable
from deployments.jobs.job import Backlog
from deployments.jobs.store import JobStore, StoreStats
from deployments.telemetry.metrics import Recorder

INTERVAL_S = 2.0
MAX_CLAIMABLE = 1000  # to count one, the store compares what its key runs with the key's limit
TIMEOUT_S = 3.0  # a scrape waits no longer for an unavailable store


class QueueMetrics:
    """Records the gauges of the queue, its webhooks and its store."""

    def __init__(
        self, store: JobStore, recorder: Recorder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._lock = asyncio.Lock()
        self._updated_at = float("-inf")
        self._keys: set[str] = set()

    async def refresh(self) -> None:
        """Update the gauges, unless that was done within the last INTERVAL_S."""
        async with self._lock:
            if self._clock() - self._updated_at >= INTERVAL_S:
                await self.update()
                self._updated_at = self._clock()

    async def update(self) -> None:
        """Update the gauges; of a store that does not answer, only `florence_store_up`."""
        is_up = True
        try:
            async with asyncio.timeout(TIMEOUT_S):
                backlog = await self._store.backlog(MAX_CLAIMABLE)
                stats = await self._store.stats()
        except (StoreUnavailable, TimeoutError):
            is_up = False
        else:
            self._record(backlog, stats)
        self._recorder.record("florence_store_up", float(is_up))

    def _record(self, backlog: Backlog, stats: StoreStats) -> None:
        record = self._recorder.record
        record("florence_queue_requests", stats.queued, state="queued")
        record("florence_queue_requests", backlog.queued, state="claimable")
        record("florence_queue_requests", stats.running, state="running")
        record("florence_queue_oldest_seconds", backlog.oldest_s)
        for state, number in stats.webhooks.items():
            record("florence_webhooks", number, state=str(state))
        record("florence_webhooks_overdue_seconds", stats.overdue_s)
        self._record_keys(stats.keys)
        if stats.size_bytes is not None:
            record("florence_store_bytes", stats.size_bytes)
        if stats.free_bytes is not None:
            record("florence_store_free_bytes", stats.free_bytes)

    def _record_keys(self, keys: Mapping[str, int]) -> None:
        """A gauge keeps its last value, so keys that run nothing any more are set to 0."""
        for key in self._keys | set(keys):
            self._recorder.record("florence_queue_key_running", keys.get(key, 0), key=key)
        self._keys = set(keys)
