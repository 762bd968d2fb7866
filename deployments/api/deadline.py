"""How long work goes on: until its time is over, or until its caller hangs up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request as HttpRequest

from deployments.errors import ClientDisconnected, RequestTimeout

T = TypeVar("T")


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Give the `with` block up after `seconds`.

    Raises:
        RequestTimeout: the time is over.
    """
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if timeout.expired():
            raise RequestTimeout from None
        raise


async def attended(request: HttpRequest, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller hangs up or is given up.

    Raises:
        ClientDisconnected: the caller hung up.
    """
    running = asyncio.ensure_future(work)
    leaving = asyncio.create_task(hang_up(request), name="hang-up")
    try:
        await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        leaving.result()
        raise ClientDisconnected
    finally:
        running.cancel()
        leaving.cancel()
        await asyncio.gather(running, leaving, return_exceptions=True)


async def hang_up(request: HttpRequest) -> None:
    """Wait until the caller hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
