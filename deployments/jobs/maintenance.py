"""Cares for requests that nobody cares for: rescues those of dead workers, forgets old ones."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from deployments.errors import StoreUnavailable
from deployments.jobs.store import JobStore
from deployments.telemetry.metrics import Recorder

RESCUE_EVERY_S = 2.0
PRUNE_EVERY_S = 2.0
PRUNE_LIMIT = 1000


class Keeper:
    """Several may run at once, on several machines.

    Args:
        remove_files: removes files by name; those that are gone already are fine.
    """

    def __init__(
        self,
        store: JobStore,
        remove_files: Callable[[Sequence[str]], Awaitable[None]],
        recorder: Recorder,
    ) -> None:
        self._store = store
        self._remove_files = remove_files
        self._recorder = recorder

    async def rescue_forever(self) -> None:
        """Free requests whose worker is gone, and end those that were not begun in time."""
        while True:
            with suppress(StoreUnavailable):  # there is a next time
                await self.rescue()
            await asyncio.sleep(RESCUE_EVERY_S)

    async def prune_forever(self) -> None:
        """Forget what is old."""
        while True:
            with suppress(StoreUnavailable):  # there is a next time
                await self.prune()
            await asyncio.sleep(PRUNE_EVERY_S)

    async def rescue(self) -> None:
        """One round, and what it found in the metrics."""
        rescued = await self._store.rescue()
        found = {
            "requeued": rescued.requeued,
            "failed": rescued.failed,
            "cancelled": rescued.cancelled,
            "expired": rescued.expired,
        }
        for outcome, number in found.items():
            if number:
                self._recorder.record("florence_dispatcher_rescued_total", number, outcome=outcome)
        if rescued.requeued:
            self._recorder.record(
                "florence_dispatcher_retries_total", rescued.requeued, cause="lease_over"
            )

    async def prune(self) -> None:
        """One round."""
        files = await self._store.prune(PRUNE_LIMIT)
        if files:
            await self._remove_files(files)
