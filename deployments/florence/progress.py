"""Work that tells how far it is, as an iterator."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def progress(
    work: Callable[[Callable[[T], None]], Awaitable[R]],
) -> AsyncGenerator[T | R, None]:
    """What `work` tells with the function that it is given, and at the end its result.

    Of what is told faster than it is taken, only the newest is left.
    The work has a task of its own, so that its deadlines hold whoever iterates;
    it is cancelled when nobody does any more.

    Raises:
        Exception: what `work` raises.
    """
    newest: asyncio.Queue[T | None] = asyncio.Queue()

    def tell(value: T | None) -> None:
        while not newest.empty():
            newest.get_nowait()
        newest.put_nowait(value)

    working = asyncio.ensure_future(work(tell))
    working.add_done_callback(lambda _: tell(None))
    try:
        while (value := await newest.get()) is not None:
            yield value
        yield await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
