"""What a key may do: begin so many requests per second, and have so many running.

A key without limits costs no trip to the store.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from deployments.api.auth import Caller
from deployments.api.retry_after import Drain
from deployments.errors import Overloaded, RateLimited, StoreUnavailable
from deployments.jobs.store import KeyStore
from deployments.settings import Settings
from deployments.telemetry.metrics import Recorder


class Limits:
    """Holds callers to the limits of their keys, which count over all replicas."""

    def __init__(
        self, store: KeyStore, settings: Settings, drain: Drain, recorder: Recorder
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._burst = settings.keys.rate_burst
        self._ttl_s = settings.ingress.deadline_s  # a place whose replica died is free after it
        self._drain = drain
        self._leaving: set[asyncio.Task[None]] = set()

    async def admit(self, caller: Caller) -> None:
        """Count one request that begins, a run or a submit.

        Raises:
            RateLimited: the key begins too many per second.
        """
        if caller.rate is None:
            return
        wait_s = await self._store.check_rate_limit(caller.key_id, caller.rate, self._burst)
        if wait_s > 0:
            self._note_refusal(caller, "rate")
            raise RateLimited.after(wait_s)

    @asynccontextmanager
    async def place(self, caller: Caller, run_id: str) -> AsyncIterator[None]:
        """Hold one of the key's places for the time of the `with` block.

        Raises:
            Overloaded: all of them are taken.
        """
        if caller.concurrency is None:
            yield
            return
        inside = True  # whoever is cancelled on the way in may have got in
        try:
            inside = await self._store.acquire_slot(caller.key_id, run_id, self._ttl_s)
            if not inside:
                self._note_refusal(caller, "concurrency")
                raise Overloaded.after(self._drain.wait_s(caller.concurrency))
            yield
        finally:
            if inside:
                await self._leave(run_id)

    def _note_refusal(self, caller: Caller, limit: str) -> None:
        self._recorder.record("florence_ingress_key_refused_total", key=caller.key_id, limit=limit)

    async def _leave(self, run_id: str) -> None:
        """Give the place back, also for a caller who has left."""
        leaving = asyncio.create_task(self._give_back(run_id), name=f"leave-{run_id}")
        self._leaving.add(leaving)  # asyncio itself would not keep a task that nobody awaits
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)

    async def _give_back(self, run_id: str) -> None:
        # A store that is away now costs no result: the place frees itself.
        with suppress(StoreUnavailable):
            await self._store.release_slot(run_id)
