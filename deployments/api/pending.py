"""Pictures that are promised: an answer names them while they are still being drawn.

A download waits for such a picture, and for no other: whoever makes a name up is told at once that
there is nothing. Ingress replicas share no memory, so a name itself shows that it was promised: it
is made with a key that each of them derives from a secret in the store and the time. That costs no
file and no call, as a list of promises would; and a creation time in the name, which anybody can
write, would let strangers take the places of those who wait.
"""

import asyncio
import time
from contextlib import suppress

from deployments.api.signed_urls import Tickets
from deployments.errors import StoreUnavailable
from deployments.files.pending import is_pending
from deployments.jobs.store import KeyStore

MARGIN_S = 60.0  # a download waits for less, and the clocks of a cluster differ by less
STORE_TIMEOUT_S = 1.0


class Promises:
    """Keys to promise pictures with; each is good for at least `longest_run_s` and a margin."""

    def __init__(self, store: KeyStore, longest_run_s: float) -> None:
        self._tickets = Tickets(store)
        self._period_s = longest_run_s + MARGIN_S

    async def key(self) -> str:
        """The key of this period; none while the store is away, which costs a run no more."""
        return await self._key(self._period())

    async def hold(self, name: str) -> bool:
        """Whether `name` was promised in this period or the last."""
        period = self._period()
        keys = [await self._key(period), await self._key(period - 1)]
        return any(key and is_pending(name, key) for key in keys)

    def _period(self) -> int:
        return int(time.time() // self._period_s)

    async def _key(self, period: int) -> str:
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await self._tickets.digest(f"pictures {period}")
        return ""
