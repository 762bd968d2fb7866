"""Keeps jobs in the queue while the model has no replica.

A claimed job has a deadline. Without a replica, for example while a node starts, the deadline
would pass, the attempt would count, and the job would fail in the end.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

TRUST_S = 10.0  # a replica that has answered is taken to be there
CHECK_INTERVAL_S = 0.5


class Readiness:
    """Whether the model has a replica.

    Args:
        check: asks the deployments; asking starts a replica when they are scaled to zero.
    """

    def __init__(
        self,
        check: Callable[[], Awaitable[bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check
        self._clock = clock
        self._confirmed_at = float("-inf")

    @property
    def is_ready(self) -> bool:
        """Whether a replica has answered within the last TRUST_S."""
        return self._clock() - self._confirmed_at < TRUST_S

    def confirm(self) -> None:
        """A replica has just answered."""
        self._confirmed_at = self._clock()

    async def wait(self) -> None:
        while not self.is_ready:
            if await self._check():
                self.confirm()
            else:
                await asyncio.sleep(CHECK_INTERVAL_S)
