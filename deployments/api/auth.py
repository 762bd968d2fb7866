"""Who may do what: API keys for requests, and signed URLs for uploads.

Keys come in the Authorization header, and this service knows only their hashes, from the settings
or the store. An answer of the store is cached for a moment, so every replica refuses a revoked key
within seconds.

A signed URL carries its permission, which any replica can verify without asking the store. The
signature in its `ticket` is good for one action on one subject, up to a size, until it expires.
"""

import hashlib
import hmac
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from deployments.errors import Forbidden, Unauthorized
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
SIGNING_SECRET = "uploads"  # its name in the store
SIGNATURE = re.compile(r"([0-9a-f]{1,11})\.([0-9a-f]{1,11})\.([0-9a-f]{64})")

Action = Literal["file", "parts", "token"]


@dataclass(frozen=True)
class Caller:
    """The key of a request: its id, its most requests at once and per second; None for no limit.

    `adapter` answers what it asks, unless a request names another; empty for none.
    """

    key_id: str
    concurrency: int | None = None
    rate: float | None = None
    adapter: str = ""


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
        caller = (
            None
            if found is None
            else Caller(found.id, found.concurrency, found.rate, found.adapter)
        )
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


@dataclass(frozen=True)
class Permission:
    """What is permitted, on which subject, up to how many bytes, until when (epoch seconds)."""

    action: Action
    subject: str
    max_bytes: int
    expires: int

    @property
    def text(self) -> str:
        return f"{self.action} {self.subject} {self.max_bytes:x} {self.expires:x}"


class UrlSigner:
    """Signs and verifies permissions, with a secret that all replicas share."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._secret: bytes | None = None

    async def sign(self, permission: Permission) -> str:
        """The signature for a URL or a header; it does not say the action and the subject."""
        digest = await self.digest(permission.text)
        return f"{permission.max_bytes:x}.{permission.expires:x}.{digest}"

    async def verify(self, action: Action, subject: str, signature: str) -> Permission:
        """The permission that was signed.

        Raises:
            Forbidden: the signature was altered, has expired, or is for something else.
        """
        match = SIGNATURE.fullmatch(signature)
        if match is None:
            raise Forbidden
        permission = Permission(action, subject, int(match[1], 16), int(match[2], 16))
        if not hmac.compare_digest(match[3], await self.digest(permission.text)):
            raise Forbidden
        if time.time() >= permission.expires:
            raise Forbidden
        return permission

    async def digest(self, text: str) -> str:
        """The keyed digest (HMAC-SHA256) of `text`, in 64 hex digits."""
        if self._secret is None:
            self._secret = await self._store.secret(SIGNING_SECRET, os.urandom(32))
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
