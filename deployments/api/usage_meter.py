"""Usage of keys: counted in this process, added to the store every second.

A process that is killed loses the last second.
When the store is lost while it adds, and for longer than it is waited for (`store.patience_s`),
that second may be counted twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from deployments.errors import StoreUnavailable
from deployments.jobs.api_key import Usage
from deployments.jobs.store import KeyStore
from deployments.jobs.transitions import day_of
from deployments.telemetry.log import logger
from deployments.telemetry.metrics import Recorder

FLUSH_S = 1.0
LAST_FLUSH_S = 5.0  # how long a shutdown waits for the store


class UsageMeter:
    """Counts requests, images and model seconds of each key.

    Jobs are counted here when they are submitted, for the metrics alone:
    the store adds what they use when they end.
    """

    def __init__(
        self, store: KeyStore, recorder: Recorder, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._used: dict[tuple[str, str, str], Usage] = {}

    def submitted(self, key_id: str) -> None:
        self._recorder.record("florence_ingress_key_requests_total", key=key_id)

    def began(self, key_id: str, path: str) -> None:
        self._recorder.record("florence_ingress_key_requests_total", key=key_id)
        self._add(Usage(key_id=key_id, day=self._day(), path=path, requests=1))

    def finished(self, key_id: str, path: str, model_s: float) -> None:
        """Count a run that has its result, with its share of the model's time."""
        self._recorder.record("florence_ingress_key_model_seconds_total", model_s, key=key_id)
        self._add(Usage(key_id=key_id, day=self._day(), path=path, images=1, model_s=model_s))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Flush every second for the time of the `with` block, and once more at its end."""
        stop = asyncio.Event()
        flushing = asyncio.create_task(self._flush_until(stop), name="usage")
        try:
            yield
        finally:
            stop.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(flushing, LAST_FLUSH_S)

    async def flush(self) -> None:
        """Add the counts to the store; when it fails, keep them for the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.add_usage(list(used.values()))
        except StoreUnavailable:
            self._keep(used.values())
        except Exception as error:
            logger.error("usage could not be stored", exc_info=error)
            self._keep(used.values())

    async def _flush_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.flush()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), FLUSH_S)
        await self.flush()

    def _day(self) -> str:
        return day_of(self._clock())

    def _keep(self, usages: Iterable[Usage]) -> None:
        for usage in usages:
            self._add(usage)

    def _add(self, usage: Usage) -> None:
        row = usage.key_id, usage.day, usage.path
        self._used[row] = total(self._used[row], usage) if row in self._used else usage


def total(one: Usage, other: Usage) -> Usage:
    return replace(
        one,
        requests=one.requests + other.requests,
        images=one.images + other.images,
        model_s=one.model_s + other.model_s,
    )
