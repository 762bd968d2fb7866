"""A store whose every call is measured."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from deployments.errors import StoreUnavailable
from deployments.jobs.store import Store
from deployments.telemetry.metrics import Recorder

UNMEASURED = {"read_rows", "close"}  # a stream, and what ends it all


class MeasuredStore:
    """Every method of `store`, with how long it took and whether the store was there.

    A refusal, such as a full queue, is an answer; only StoreUnavailable says that it is away.
    """

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self._store = store
        self._recorder = recorder

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)
        return method if name in UNMEASURED else self._measured(name, method)

    def _measured(
        self, name: str, method: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            is_up = True
            try:
                return await method(*args, **options)
            except StoreUnavailable:
                is_up = False
                raise
            finally:
                self._note(name, time.perf_counter() - begun, is_up)

        return call

    def _note(self, name: str, seconds: float, is_up: bool) -> None:
        self._recorder.record("florence_store_call_seconds", seconds, operation=name)
        if not is_up:
            self._recorder.record("florence_store_errors_total", operation=name)


def measured(store: Store, recorder: Recorder) -> Store:
    """`store`, whose calls are recorded from now on."""
    return cast(Store, MeasuredStore(store, recorder))
