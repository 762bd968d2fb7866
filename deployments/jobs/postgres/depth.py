"""How many requests are queued, without counting a long queue for each that is added."""

import time
from collections.abc import Awaitable, Callable

FAR_S = 1.0  # how old a count may be while the bound is far
NEAR_S = 0.1  # and when it is near: counting 100,000 takes a fortieth of a second

Count = Callable[[], Awaitable[int]]


class Depth:
    """The last count, and what this process has added since."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted_at = float("-inf")
        self._depth = 0

    async def read(self, count: Count, max_age_s: float) -> int:
        """The depth, from a count of at most `max_age_s` ago."""
        if self._clock() - self._counted_at > max_age_s:
            started_at, self._depth = self._clock(), await count()
            self._counted_at = started_at
        return self._depth

    def add(self, num: int) -> None:
        """Take note of `num` requests more."""
        self._depth += num
