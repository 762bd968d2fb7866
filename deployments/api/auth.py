"""API keys in the Authorization header, which this service knows only by their hashes.

Keys are in the settings or in the store. An answer of the store is cached for a moment, so every
replica refuses a revoked key within seconds.
"""

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deployments.errors import Unauthorized
from deployments.florence.tasks import APP
from deployments.jobs.store import KeyStore
from deployments.settings import KeySettings, hash_key

SCHEMES = ("key", "bearer")
MISSING = (
    f"Cannot access application '{APP}'. Authentication is required to access this application."
)
MALFORMED = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
WRONG = "No user found for Key ID and Secret"
MAX_CACHED = 10_000  # wrong keys are cached too, and any caller can invent those


@dataclass(frozen=True)
class Caller:
    """The key of a request: its id, its most requests at once and per second; None for no limit."""

    key_id: str
    concurrency: int | None = None
    rate: float | None = None


class Keyring:
    def __init__(
        self,
        settings: KeySettings,
        store: KeyStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hashes = [known.lower() for known in settings.hashes]
        self._cache_s = settings.cache_s
        self._store = store
        self._clock = clock
        self._cached: OrderedDict[str, tuple[float, Caller | None]] = OrderedDict()

    async def authorize(self, headers: Mapping[str, str]) -> Caller:
        """The caller that the key in `headers` belongs to.

        Raises:
            Unauthorized: there is no key, or a wrong one.
            StoreUnavailable: the key is not in the settings, and the store does not answer.
        """
        offered = hash_key(key_in(headers))
        caller = self._configured(offered) or await self._stored(offered)
        if caller is None:
            raise Unauthorized(WRONG)
        return caller

    def _configured(self, offered: str) -> Caller | None:
        # All are compared before any result is used: the time must not show which one matched.
        matches = [hmac.compare_digest(known.encode(), offered.encode()) for known in self._hashes]
        return Caller(offered[:12]) if any(matches) else None

    async def _stored(self, offered: str) -> Caller | None:
        now = self._clock()
        until, caller = self._cached.get(offered, (now, None))
        if now < until:
            return caller
        found = await self._store.key_by_hash(offered)
        caller = None if found is None else Caller(found.id, found.concurrency, found.rate)
        self._cache(offered, now + self._cache_s, caller)
        return caller

    def _cache(self, offered: str, until: float, caller: Caller | None) -> None:
        self._cached[offered] = until, caller
        self._cached.move_to_end(offered)
        while len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)


def key_in(headers: Mapping[str, str]) -> str:
    if "authorization" not in headers:
        raise Unauthorized(MISSING)
    scheme, _, key = headers["authorization"].strip().partition(" ")
    if scheme.lower() not in SCHEMES or not key.strip():
        raise Unauthorized(MALFORMED)
    return key.strip()
