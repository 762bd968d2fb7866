"""Tells a worker that the queue has changed, at most every few milliseconds."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

GAP_S = 0.05  # a call to another box costs about a millisecond of CPU, a late wake-up next to none


class Wakeup:
    """Called for each change; calls of one moment become one call of `wake`.

    A wake-up may be lost: whoever waits for it polls as well.
    """

    def __init__(self, wake: Callable[[], Awaitable[Any]]) -> None:
        self._wake = wake
        self._is_asked = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        """Wake the worker soon."""
        self._is_asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="wake-up")

    async def _run(self) -> None:
        while self._is_asked:
            self._is_asked = False
            with suppress(Exception):  # whatever it is, the worker polls
                await self._wake()
            await asyncio.sleep(GAP_S)
