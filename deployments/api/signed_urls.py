"""Tickets: signed permissions to upload, which any replica can check without asking a store.

A ticket is good for one action on one subject until its time is over, up to a size.
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
TEXT = re.compile(r"([0-9a-f]{1,11})\.([0-9a-f]{1,11})\.([0-9a-f]{64})")

Action = Literal["file", "parts", "token"]


@dataclass(frozen=True)
class Ticket:
    """What is permitted, to what, for up to how many bytes, and until when (epoch seconds)."""

    action: Action
    subject: str
    max_bytes: int
    expires: int

    @property
    def words(self) -> str:
        """All of it in one line."""
        return f"{self.action} {self.subject} {self.max_bytes:x} {self.expires:x}"


class Tickets:
    """Signs tickets and checks them, with a secret that all replicas share."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._secret: bytes | None = None

    async def sign(self, ticket: Ticket) -> str:
        """The ticket as text for a URL or a header; whoever redeems it names action and subject."""
        return f"{ticket.max_bytes:x}.{ticket.expires:x}.{await self.digest(ticket.words)}"

    async def redeem(self, action: Action, subject: str, text: str) -> Ticket:
        """The ticket in `text`.

        Raises:
            Forbidden: it was altered, is over, or is for something else.
        """
        match = TEXT.fullmatch(text)
        if match is None:
            raise Forbidden
        ticket = Ticket(action, subject, int(match[1], 16), int(match[2], 16))
        if not hmac.compare_digest(match[3], await self.digest(ticket.words)):
            raise Forbidden
        if time.time() >= ticket.expires:
            raise Forbidden
        return ticket

    async def digest(self, words: str) -> str:
        """64 hex digits for `words` that only we can tell."""
        if self._secret is None:
            self._secret = await self._store.secret(SECRET, os.urandom(32))
        return hmac.new(self._secret, words.encode(), hashlib.sha256).hexdigest()
