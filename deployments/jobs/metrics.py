"""Reads the queue into metrics: what waits, what runs, how the store is."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

from deployments.errors import StoreUnavailable
from deployments.jobs.job import Backlog
from deployments.jobs.stats import CAP, MAX_KEYS, StoreStats
from deployments.jobs.store import JobStore
from deployments.telemetry.metrics import Recorder

EVERY_S = 2.0
CLAIMABLE_CAP = 1000  # each of them has to be weighed against what its key may run
TIMEOUT_S = 3.0  # a scrape waits no longer for a store that is away


class Readings:
    """Asks the store at most every two seconds, however often it is asked itself."""

    def __init__(self, store: JobStore, recorder: Recorder, every_s: float = EVERY_S) -> None:
        self._store = store
        self._recorder = recorder
        self._every_s = every_s
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._keys: set[str] = set()

    async def refresh(self) -> None:
        """Record how things stand, unless that was done just now."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= self._every_s:
                await self.read()
                self._asked_at = time.monotonic()

    async def read_forever(self) -> None:
        """Record how things stand, again and again."""
        while True:
            await self.read()
            await asyncio.sleep(self._every_s)

    async def read(self) -> None:
        """Record how things stand now; of a store that is away, only that."""
        is_up = False
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                backlog = await self._store.backlog(CLAIMABLE_CAP)
                stats = await self._store.stats(CAP, MAX_KEYS)
            is_up = True
            self._record(backlog, stats)
        self._recorder.record("florence_store_up", float(is_up))

    def _record(self, backlog: Backlog, stats: StoreStats) -> None:
        record = self._recorder.record
        by_state = (
            ("queued", stats.queued),
            ("claimable", backlog.queued),
            ("running", stats.running),
        )
        for state, number in by_state:
            record("florence_queue_requests", number, state=state)
        record("florence_queue_oldest_seconds", backlog.oldest_s)
        for webhook_state, number in stats.webhooks.items():
            record("florence_webhooks", number, state=str(webhook_state))
        record("florence_webhooks_overdue_seconds", stats.overdue_s)
        self._record_keys(stats.keys)
        if stats.size_bytes is not None:
            record("florence_store_bytes", stats.size_bytes)
        if stats.free_bytes is not None:
            record("florence_store_free_bytes", stats.free_bytes)

    def _record_keys(self, keys: Mapping[str, int]) -> None:
        """Also of keys that run nothing any more: a gauge keeps its last value."""
        for key in self._keys - set(keys):
            self._recorder.record("florence_queue_key_running", 0.0, key=key)
        for key, number in keys.items():
            self._recorder.record("florence_queue_key_running", number, key=key)
        self._keys = set(keys)
