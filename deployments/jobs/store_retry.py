"""Calls a store again that is unavailable for a moment, for example while its database restarts."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from deployments.errors import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

PAUSE_S, MAX_PAUSE_S = 0.05, 0.5
BACKOFF = 1.5

# Called for each failed attempt that another one follows, so that an outage is seen while it lasts.
attempt_failed: ContextVar[Callable[[], None] | None] = ContextVar("attempt_failed", default=None)


class Retrying(Protocol):
    """A store whose calls are retried for `retry_s` seconds; 0 for never."""

    retry_s: float


S = TypeVar("S", bound=Retrying)


async def retry(call: Callable[[], Awaitable[T]], retry_s: float) -> T:
    """The result of `call`, which is called again for `retry_s` seconds.

    Raises:
        StoreUnavailable: the store was unavailable all that time.
    """
    deadline, pause_s = time.monotonic() + retry_s, PAUSE_S
    while True:
        try:
            return await call()
        except StoreUnavailable:
            if time.monotonic() + pause_s > deadline:
                raise
            if note := attempt_failed.get():
                note()
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * BACKOFF, MAX_PAUSE_S)


def retried(
    method: Callable[Concatenate[S, P], Awaitable[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """A method that is retried. A call may be applied twice, so it must mean the same twice.

    A repeated submit finds its job. A cancel, a finish or a revocation may find that it has
    happened already, and says so. Jobs of a claim whose answer was lost return to the queue when
    their leases end.
    """

    @wraps(method)
    async def call(self: S, /, *args: P.args, **options: P.kwargs) -> T:
        return await retry(lambda: method(self, *args, **options), self.retry_s)

    return call
