"""Who calls: an API key in the Authorization header, known here only by its hash.

Keys stand in the settings or in the store; what the store says is believed for a moment,
so a revoked key closes within seconds on every replica.
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
MAX_REMEMBERED = 10_000  # wrong keys are remembered too, and anybody can invent those


@dataclass(frozen=True)
class Caller:
    """Whoever holds a key: its id, and its limits where it has any."""

    key_id: str
    concurrency: int | None = None
    rate: float | None = None


class Keyring:
    """Tells callers by their keys."""

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
        self._remembered: OrderedDict[str, tuple[float, Caller | None]] = OrderedDict()

    async def authorize(self, headers: Mapping[str, str]) -> Caller:
        """The caller behind the key in `headers`.

        Raises:
            Unauthorized: there is no key, or none that we know.
            StoreUnavailable: the key is not in the settings, and the store does not answer.
        """
        offered = hash_key(key_in(headers))
        caller = self._configured(offered) or await self._stored(offered)
        if caller is None:
            raise Unauthorized(WRONG)
        return caller

    def _configured(self, offered: str) -> Caller | None:
        # All are compared before any is looked at: the time must not tell which one fitted.
        fits = [hmac.compare_digest(known.encode(), offered.encode()) for known in self._hashes]
        return Caller(offered[:12]) if any(fits) else None

    async def _stored(self, offered: str) -> Caller | None:
        now = self._clock()
        until, caller = self._remembered.get(offered, (now, None))
        if now < until:
            return caller
        found = await self._store.key_by_hash(offered)
        caller = None if found is None else Caller(found.id, found.concurrency, found.rate)
        self._remember(offered, now + self._cache_s, caller)
        return caller

    def _remember(self, offered: str, until: float, caller: Caller | None) -> None:
        self._remembered[offered] = until, caller
        self._remembered.move_to_end(offered)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def key_in(headers: Mapping[str, str]) -> str:
    """The key that the caller offers."""
    if "authorization" not in headers:
        raise Unauthorized(MISSING)
    scheme, _, key = headers["authorization"].strip().partition(" ")
    if scheme.lower() not in SCHEMES or not key.strip():
        raise Unauthorized(MALFORMED)
    return key.strip()
