"""Signatures that let a receiver know that a webhook is ours, as fal makes them.

              a day, so that receivers have read it            its webhooks have been read
    next ──────────────────────────────────────────▶ active ──────▶ retired ──────▶ (not published)

Private halves stay in a folder; public halves and states are in the store, where all replicas
see them, and from where they are published.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from deployments.errors import SetupError
from deployments.settings import WebhookSettings
from deployments.webhooks.pem import PrivateKey, make_key, read_keys
from deployments.webhooks.webhook import SigningKey, WebhookStore

CACHED_S = 24 * 3600.0  # receivers may remember the published keys for so long, says fal
REREAD_S = 10.0


class KeyState(StrEnum):
    """Where a key is in its life."""

    NEXT = "next"  # published, so that receivers know it before it signs
    ACTIVE = "active"  # signs
    RETIRED = "retired"  # signs no more, and is published while its webhooks may be under way


@dataclass(frozen=True)
class Rotation:
    """What a rotation has done, in ids; `next` is None where the folder cannot be written."""

    active: str
    retired: tuple[str, ...]
    next: str | None


class KeyFolder:
    """The keys of `settings.keys`, with their states in `store`."""

    def __init__(
        self,
        settings: WebhookSettings,
        store: WebhookStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = Path(settings.keys)
        self._span_s = settings.span_s
        self._store = store
        self._clock = clock
        self._signing: tuple[float, PrivateKey] | None = None

    async def ensure(self) -> list[PrivateKey]:
        """The published keys that are here, the one to sign with first.

        Where there is none, an active and a next one are made. Two processes that start at once
        in one new folder may both make theirs, and all four are good.

        Raises:
            SetupError: there is none, and the folder cannot be written; or a file is no key.
            StoreUnavailable: the public halves cannot be published.
        """
        usable = await self._usable()
        if usable:
            return usable
        for _ in range(2):
            await asyncio.to_thread(make_key, self._folder)
        return await self._usable()

    async def key(self) -> PrivateKey:
        """The key to sign with; a rotation, or a file put there, is noticed within seconds.

        Raises:
            SetupError: as for `ensure`.
            StoreUnavailable: as for `ensure`.
        """
        now = self._clock()
        if self._signing is None or now >= self._signing[0] + REREAD_S:
            self._signing = now, (await self.ensure())[0]
        return self._signing[1]

    async def published(self) -> list[SigningKey]:
        """The public halves that receivers are told of, those that sign first."""
        return published(await self._store.signing_keys(), await self._store.now(), self._span_s)

    async def rotate(self, *, early: bool = False) -> Rotation:
        """Let the next key sign, retire those that did, and have a new next one.

        Raises:
            SetupError: there is no next key here, or, but for `early`, receivers may not have
                read it yet; the message says when they will.
        """
        await self.ensure()
        chosen, *others = await self._next() or await self._fresh_next()
        if not early:
            check_age(chosen, await self._store.now())
        signed = [key for key in await self.published() if key.state == KeyState.ACTIVE]
        retired = [replace(key, state=KeyState.RETIRED) for key in signed]
        await self._store.put_signing_keys([replace(chosen, state=KeyState.ACTIVE), *retired])
        if not others and os.access(self._folder, os.W_OK):
            others = await self._fresh_next()
        names = tuple(key.kid for key in retired)
        return Rotation(chosen.kid, names, others[0].kid if others else None)

    async def _usable(self) -> list[PrivateKey]:
        """The keys here whose public halves are published, those of new files included."""
        here = await asyncio.to_thread(read_keys, self._folder)
        await self._register(here)
        return [here[key.kid] for key in await self.published() if key.kid in here]

    async def _register(self, here: Mapping[str, PrivateKey]) -> None:
        """Tell the store of keys that it does not know."""
        known = {key.kid: key for key in await self._store.signing_keys()}
        for key in here.values():
            check_same(key, known.get(key.kid))
        fresh = [key for key in here.values() if key.kid not in known]
        if fresh:
            await self._store.put_signing_keys(beginners(fresh, known.values()))

    async def _next(self) -> list[SigningKey]:
        """The next keys whose private halves are here, the one published longest first."""
        here = await asyncio.to_thread(read_keys, self._folder)
        found = [key for key in await self.published() if key.state == KeyState.NEXT]
        return sorted((key for key in found if key.kid in here), key=lambda key: key.changed_at)

    async def _fresh_next(self) -> list[SigningKey]:
        await asyncio.to_thread(make_key, self._folder)
        await self._usable()
        return await self._next()


def signed_headers(
    request_id: str, user_id: str, timestamp: int, body: bytes, key: PrivateKey
) -> dict[str, str]:
    """The headers by which a receiver knows that `body` is ours, and from when (epoch, s)."""
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": user_id,
        "X-Fal-Webhook-Timestamp": str(timestamp),
        "X-Fal-Webhook-Signature": sign(request_id, user_id, timestamp, body, key),
    }


def sign(request_id: str, user_id: str, timestamp: int, body: bytes, key: PrivateKey) -> str:
    """The signature in hex."""
    parts = (request_id, user_id, str(timestamp), hashlib.sha256(body).hexdigest())
    return key.private.sign("\n".join(parts).encode()).hex()


def jwks(keys: Iterable[SigningKey]) -> dict[str, Any]:
    """The document in which receivers look for public keys."""
    shared = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}
    return {"keys": [{**shared, "kid": key.kid, "x": key.x} for key in keys]}


def published(keys: Sequence[SigningKey], now: float, span_s: float) -> list[SigningKey]:
    """The keys that receivers are told of at `now`, those that sign first.

    A retired one is told of for `span_s` seconds and a day more, which outlasts every delivery
    that it has signed.
    """
    order = [KeyState.ACTIVE, KeyState.NEXT, KeyState.RETIRED]
    told = [
        key
        for key in keys
        if key.state != KeyState.RETIRED or now - key.changed_at < span_s + CACHED_S
    ]
    return sorted(told, key=lambda key: order.index(KeyState(key.state)))


def beginners(fresh: Iterable[PrivateKey], known: Iterable[SigningKey]) -> list[SigningKey]:
    """The public halves of `fresh` keys: the first one signs when no known one does."""
    vacant = all(key.state != KeyState.ACTIVE for key in known)
    states = chain([KeyState.ACTIVE] if vacant else [], repeat(KeyState.NEXT))
    return [
        SigningKey(kid=key.kid, x=key.x, state=state)
        for key, state in zip(fresh, states, strict=False)
    ]


def check_same(here: PrivateKey, known: SigningKey | None) -> None:
    """Refuse a file whose key is not the one that is published under its name.

    Raises:
        SetupError: receivers would look for the wrong key.
    """
    if known is not None and known.x != here.x:
        raise SetupError(
            f"another webhook key is published as {here.kid}: give {here.kid}.pem a new name"
        )


def check_age(key: SigningKey, now: float) -> None:
    """Refuse to sign with a key that receivers may not have read.

    Raises:
        SetupError: it says when they will have.
    """
    due = key.changed_at + CACHED_S
    if now < due:
        when = datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise SetupError(
            f"receivers may not know the next key {key.kid} before {when}: "
            "rotate then, or at once with --now"
        )
