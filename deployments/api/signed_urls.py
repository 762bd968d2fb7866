"""Signed URLs: permissions to upload, which any replica can verify without asking the store.

The signature in the URL's `ticket` is good for one action on one subject, up to a size, until it
expires.
"""

import hashlib
import hmac
import os
import re
import time
from dataclasses import dataclass
from typing import Literal

from deployments.errors import Forbidden
from deployments.jobs.store import KeyStore

SECRET = "uploads"  # its name in the store
SIGNATURE = re.compile(r"([0-9a-f]{1,11})\.([0-9a-f]{1,11})\.([0-9a-f]{64})")

Action = Literal["file", "parts", "token"]


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
            self._secret = await self._store.secret(SECRET, os.urandom(32))
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
