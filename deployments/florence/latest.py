"""The latest report of a piece of work, as an iterator."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def latest(
    work: Callable[[Callable[[T], None]], Awaitable[R]],
) -> AsyncGenerator[T | R, None]:
    """What `work` reports by calling the function that it gets, and at the end its result.

    A consumer that is slower than the work gets only the newest value.
    The work runs in a task of its own, so that its timeouts hold even if each step of the iteration
    is in another task. The work is cancelled when the iteration ends.

    Raises:
        Exception: what `work` raises.
    """
    newest: asyncio.Queue[T | None] = asyncio.Queue()

    def report(value: T | None) -> None:
        while not newest.empty():
            newest.get_nowait()
        newest.put_nowait(value)

    working = asyncio.ensure_future(work(report))
    working.add_done_callback(lambda _: report(None))
    try:
        while (value := await newest.get()) is not None:
            yield value
        yield await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
