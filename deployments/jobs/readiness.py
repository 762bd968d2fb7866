"""Keeps requests in the queue while nobody could work on them.

A request that is claimed has so long to be done. With no replica of the model, while a node for
one is started, that time would run out: the request would count as tried, and in the end fail.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

TRUST_S = 10.0  # how long those who have just worked are taken to be there
ASK_EVERY_S = 0.5


class Gate:
    """Open while those who do the work have shown themselves of late.

    Args:
        ask: whether they are there; asking may make them come.
    """

    def __init__(self, ask: Callable[[], Awaitable[bool]], trust_s: float = TRUST_S) -> None:
        self._ask = ask
        self._trust_s = trust_s
        self._seen_at = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether work can be begun."""
        return time.monotonic() - self._seen_at < self._trust_s

    def note(self) -> None:
        """They have just worked."""
        self._seen_at = time.monotonic()

    async def open(self) -> None:
        """Wait until they are there."""
        while not self.is_open:
            if await self._ask():
                self.note()
            else:
                await asyncio.sleep(ASK_EVERY_S)
