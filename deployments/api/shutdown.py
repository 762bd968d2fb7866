"""The end of this service: nobody new is let in, and whoever is inside gets an answer."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from deployments.errors import NotReady


class Closing:
    """Counts what must come to its end: runs, and submits."""

    def __init__(self) -> None:
        self._is_closed = False
        self._num_inside = 0
        self._left = asyncio.Event()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be waited for during the `with` block.

        Raises:
            NotReady: the service stops.
        """
        if self._is_closed:
            raise NotReady("The service stops; try again in a moment.")
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1
            self._left.set()

    async def close(self, timeout_s: float) -> None:
        """Let nobody in any more, and return when all have left, or after `timeout_s`."""
        self._is_closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._num_inside:
                    self._left.clear()
                    await self._left.wait()
