"""Maintenance of the store: rescues jobs without a worker, prunes old ones."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict

from deployments.errors import StoreUnavailable
from deployments.jobs.store import JobStore
from deployments.telemetry.metrics import Recorder

PRUNE_LIMIT = 1000


class Maintenance:
    """Several replicas may run it at once.

    Args:
        remove_file: removes a file by name; does nothing when it is gone already.
    """

    def __init__(
        self, store: JobStore, remove_file: Callable[[str], object], recorder: Recorder
    ) -> None:
        self._store = store
        self._remove_file = remove_file
        self._recorder = recorder

    async def rescue(self) -> None:
        """Requeue jobs with an expired lease, and end those that were not started in time."""
        rescued = await self._store.rescue()
        for outcome, number in asdict(rescued).items():
            if number:
                self._recorder.record("florence_dispatcher_rescued_total", number, outcome=outcome)
        if rescued.requeued:
            self._recorder.record(
                "florence_dispatcher_retries_total", rescued.requeued, cause="lease_over"
            )

    async def prune(self) -> None:
        for name in await self._store.prune(PRUNE_LIMIT):
            await asyncio.to_thread(self._remove_file, name)


async def every(interval_s: float, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` for ever, with pauses of `interval_s`, also after StoreUnavailable."""
    while True:
        with suppress(StoreUnavailable):
            await work()
        await asyncio.sleep(interval_s)
