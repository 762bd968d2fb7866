"""The Ed25519 keys that sign webhooks, their rotation, and the signatures, as fal makes them.

            CACHED_S, for receivers to fetch it      its webhooks are delivered
    next ────────────────────────────────▶ active ──────▶ retired ──────▶ (not published)

Private keys are PEM files (PKCS8) in a folder; the file's name is the key's id.
Public keys and states are in the store, which all replicas read.
"""

import asyncio
import base64
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.errors import SetupError
from deployments.settings import WebhookSettings
from deployments.webhooks.webhook import KeyState, PublicKey, WebhookStore

SUFFIX = ".pem"
CACHED_S = 24 * 3600.0  # fal lets receivers cache the published keys for a day
REREAD_S = 10.0
HOW_TO_ADD = "put a key there, as `openssl genpkey -algorithm ed25519 -out NAME.pem` makes it"


@dataclass(frozen=True)
class PrivateKey:
    """A key to sign with, and the id of its public half."""

    kid: str
    private: Ed25519PrivateKey

    @property
    def x(self) -> str:
        """The public half: base64url with padding, without which fal's verifier fails."""
        return base64.urlsafe_b64encode(self.private.public_key().public_bytes_raw()).decode()

    @property
    def pem(self) -> bytes:
        """The private half as PKCS8 PEM."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@dataclass(frozen=True)
class KeyRotation:
    """Ids of the keys after a rotation; `next` is None when the folder is read-only."""

    active: str
    retired: tuple[str, ...]
    next: str | None


class SigningKeys:
    """The private keys in the folder `settings.keys`, and their public halves in `store`."""

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
        self._current: PrivateKey | None = None
        self._read_at = float("-inf")

    async def ensure(self) -> list[PrivateKey]:
        """The published keys of this folder, the one to sign with first.

        Makes an active and a next key when there is none. Two processes that start at once on
        an empty folder may both do so; all four keys are valid.

        Raises:
            SetupError: there is no key and the folder is read-only; or a file is not a key.
            StoreUnavailable: the public halves cannot be published.
        """
        usable = await self._usable()
        if usable:
            return usable
        for _ in range(2):
            await asyncio.to_thread(make_key, self._folder)
        return await self._usable()

    async def current(self) -> PrivateKey:
        """The key to sign with. A rotation or a new file takes effect within REREAD_S.

        Raises:
            SetupError: as for `ensure`.
            StoreUnavailable: as for `ensure`.
        """
        now = self._clock()
        if self._current is None or now >= self._read_at + REREAD_S:
            self._current, self._read_at = (await self.ensure())[0], now
        return self._current

    async def published(self) -> list[PublicKey]:
        return await published_keys(self._store, self._span_s)

    async def rotate(self, *, early: bool = False) -> KeyRotation:
        """Activate the next key, retire the active ones, and make a new next key.

        Raises:
            SetupError: this folder has no next key; or, unless `early`, receivers may not have
                fetched it yet: the message says when they will have.
        """
        await self.ensure()
        chosen, *others = await self._next_keys() or await self._make_next_key()
        if not early:
            check_receivers_know(chosen, await self._store.now())
        active = [key for key in await self.published() if key.state == KeyState.ACTIVE]
        retired = [replace(key, state=KeyState.RETIRED) for key in active]
        await self._store.put_signing_keys([replace(chosen, state=KeyState.ACTIVE), *retired])
        if not others and os.access(self._folder, os.W_OK):
            others = await self._make_next_key()
        ids = tuple(key.kid for key in retired)
        return KeyRotation(chosen.kid, ids, others[0].kid if others else None)

    async def _usable(self) -> list[PrivateKey]:
        """The private keys whose public halves are published; publishes those of new files."""
        keys = await asyncio.to_thread(read_keys, self._folder)
        await self._publish(keys)
        return [keys[key.kid] for key in await self.published() if key.kid in keys]

    async def _publish(self, keys: Mapping[str, PrivateKey]) -> None:
        known = {key.kid: key for key in await self._store.signing_keys()}
        for key in keys.values():
            check_same(key, known.get(key.kid))
        public = [
            PublicKey(kid=key.kid, x=key.x, state=KeyState.NEXT)
            for key in keys.values()
            if key.kid not in known
        ]
        if public and all(key.state != KeyState.ACTIVE for key in known.values()):
            public[0] = replace(public[0], state=KeyState.ACTIVE)
        if public:
            await self._store.put_signing_keys(public)

    async def _next_keys(self) -> list[PublicKey]:
        """The next keys of this folder, the one published longest first."""
        keys = await asyncio.to_thread(read_keys, self._folder)
        found = [key for key in await self.published() if key.state == KeyState.NEXT]
        return sorted((key for key in found if key.kid in keys), key=lambda key: key.changed_at)

    async def _make_next_key(self) -> list[PublicKey]:
        await asyncio.to_thread(make_key, self._folder)
        await self._usable()
        return await self._next_keys()


async def published_keys(store: WebhookStore, span_s: float) -> list[PublicKey]:
    """The public keys that receivers get: active, then next, then retired ones.

    A retired key stays for `span_s` seconds and CACHED_S, longer than any delivery that it signed.
    """
    now = await store.now()
    return [
        key
        for key in await store.signing_keys()
        if key.state != KeyState.RETIRED or now - key.changed_at < span_s + CACHED_S
    ]


def jwks(keys: Iterable[PublicKey]) -> dict[str, Any]:
    """The JSON Web Key Set that receivers fetch."""
    shared = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}
    return {"keys": [{**shared, "kid": key.kid, "x": key.x} for key in keys]}


def signed_headers(
    request_id: str, user_id: str, timestamp: int, body: bytes, key: PrivateKey
) -> dict[str, str]:
    """The headers with which a receiver verifies `body`; `timestamp` is in epoch seconds."""
    parts = (request_id, user_id, str(timestamp), hashlib.sha256(body).hexdigest())
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": user_id,
        "X-Fal-Webhook-Timestamp": str(timestamp),
        "X-Fal-Webhook-Signature": key.private.sign("\n".join(parts).encode()).hex(),
    }


def check_same(key: PrivateKey, published: PublicKey | None) -> None:
    """Check that `published`, the public key of the same id, belongs to `key`.

    Raises:
        SetupError: it does not, so receivers could not verify its signatures.
    """
    if published is not None and published.x != key.x:
        raise SetupError(
            f"another webhook key is published as {key.kid}: give {key.kid}.pem a new name"
        )


def check_receivers_know(key: PublicKey, now: float) -> None:
    """Check that `key` has been published for CACHED_S.

    Raises:
        SetupError: it has not; the message says when it will have.
    """
    due = key.changed_at + CACHED_S
    if now < due:
        when = datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise SetupError(
            f"receivers may not know the next key {key.kid} before {when}: "
            "rotate then, or at once with --now"
        )


def read_keys(folder: Path) -> dict[str, PrivateKey]:
    """The keys in `folder` by id, in the order of their names; none when it does not exist.

    Raises:
        SetupError: a PEM file is not an Ed25519 key, or cannot be read.
    """
    files = sorted(file for file in folder.glob(f"*{SUFFIX}") if not file.name.startswith("."))
    return {file.stem: PrivateKey(file.stem, read_key(file)) for file in files}


def read_key(file: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file.

    Raises:
        SetupError: it is not an Ed25519 key, or cannot be read.
    """
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise SetupError(f"cannot read the webhook key {file} ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SetupError(
            f"{file} is no Ed25519 key without a password: remove it, and {HOW_TO_ADD}"
        )
    return key


def make_key(folder: Path) -> PrivateKey:
    """A new key in `folder`: a file that only its owner can read, complete or absent.

    Raises:
        SetupError: the folder is read-only.
    """
    key = PrivateKey(secrets.token_hex(8), Ed25519PrivateKey.generate())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(folder / f"{key.kid}{SUFFIX}", key.pem)
    except OSError as error:
        raise SetupError(
            f"no webhook key can be made in {folder} ({error.strerror}): {HOW_TO_ADD}"
        ) from None
    return key


def write_durably(file: Path, content: bytes) -> None:
    """Write a private file that is complete on disk once it has its name."""
    temporary = file.with_name(f".{file.name}")
    temporary.touch(mode=0o600, exist_ok=False)
    with temporary.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
