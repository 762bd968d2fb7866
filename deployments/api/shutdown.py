"""The end of a process: no new request begins, and those that have begun get their answer."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from deployments.errors import NotReady


class Shutdown:
    """Counts the runs and submits that must end before the process does."""

    def __init__(self) -> None:
        self._has_begun = False
        self._num_running = 0
        self._ended = asyncio.Event()

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Postpone the end of the process to that of the `with` block.

        Raises:
            NotReady: the shutdown has begun.
        """
        if self._has_begun:
            raise NotReady("The service stops; try again in a moment.")
        self._num_running += 1
        try:
            yield
        finally:
            self._num_running -= 1
            self._ended.set()

    async def drain(self, timeout_s: float) -> None:
        """Begin the shutdown, and return when all have ended, or after `timeout_s`."""
        self._has_begun = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._num_running:
                    self._ended.clear()
                    await self._ended.wait()
