"""When work is given up: at its deadline, or when its caller hangs up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request as HttpRequest

from deployments.errors import ClientDisconnected, RequestTimeout

T = TypeVar("T")


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Cancel the `with` block after `seconds`.

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


async def cancel_on_disconnect(request: HttpRequest, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller hangs up.

    Raises:
        ClientDisconnected: the caller hung up.
    """
    running = asyncio.ensure_future(work)
    disconnect = asyncio.create_task(wait_for_disconnect(request), name="disconnect")
    try:
        await asyncio.wait({running, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        disconnect.result()
        raise ClientDisconnected
    finally:
        running.cancel()
        disconnect.cancel()
        await asyncio.gather(running, disconnect, return_exceptions=True)


async def wait_for_disconnect(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
