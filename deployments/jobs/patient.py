"""A store whose callers wait for it while it is away for a moment, as at a restart.

A call that was lost on the way is made again. That is safe: a submit means the same twice, a
cancel may then hear that it has happened already.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from deployments.errors import StoreUnavailable
from deployments.jobs.store import Store

PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5
SLOWER = 1.5  # each call in vain makes the pause so much longer
ADDS = frozenset({"add_usage"})  # means twice as much twice, and its caller has patience itself


class PatientStore:
    """Every method of Store; one that is away is asked again until `patience_s` has passed."""

    def __init__(self, store: Store, patience_s: float) -> None:
        self._store = store
        self._patience_s = patience_s

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call: Callable[..., Awaitable[Any]] = getattr(self._store, name)
        if name in ADDS:
            return call

        async def insist(*args: Any, **options: Any) -> Any:
            deadline, pause_s = time.monotonic() + self._patience_s, PAUSE_S
            while True:
                try:
                    return await call(*args, **options)
                except StoreUnavailable:
                    if time.monotonic() + pause_s > deadline:
                        raise
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * SLOWER, LONGEST_PAUSE_S)

        return insist


def patient(store: Store, patience_s: float) -> Store:
    """`store`, for callers who wait up to `patience_s` seconds for it."""
    return cast(Store, PatientStore(store, patience_s))
