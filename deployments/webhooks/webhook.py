"""A webhook as the store keeps it, and what its delivery needs of the store.

It is written in the transaction that ends its job, and delivered at least once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class WebhookState(StrEnum):
    """Where a delivery is."""

    PENDING = "pending"  # to be sent, now or at a later try
    DELIVERED = "delivered"  # the receiver has answered 2xx
    DEAD = "dead"  # given up


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """One delivery; there is at most one for each request, so the request's id is its own.

    `body` was frozen when the request ended; `attempts` counts those that were begun.
    """

    id: str
    key_id: str
    url: str
    body: str
    state: WebhookState = WebhookState.PENDING
    attempts: int = 0
    token: int = 0  # of the lease that a claim gives
    next_at: float = 0.0
    created_at: float = 0.0
    last_status: int | None = None
    last_error: str | None = None
    trace: str = ""  # the request's


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """The public half of a webhook key; `x` is base64url with its padding.

    `state` is `next` (published, not used yet), `active` (signs) or `retired` (published still).
    """

    kid: str
    x: str
    state: str
    changed_at: float = 0.0


class WebhookStore(Protocol):
    """Deliveries to be made, and the public keys that receivers check them with."""

    async def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        """Take up to `limit` pending webhooks that are due; each has one attempt more.

        One that is not settled within `lease_s` is due again.
        """

    async def record_delivery(
        self,
        webhook_id: str,
        token: int,
        *,
        status: int | None = None,
        error: str | None = None,
        retry_s: float | None = None,
    ) -> bool:
        """Note what came of a delivery: delivered without `error`; with it, due again in
        `retry_s`, or dead when that is None. False when the token is not the latest.
        """

    async def webhooks(self, state: WebhookState | None = None, limit: int = 100) -> list[Webhook]:
        """The latest webhooks, those in `state` only when it is given; newest first."""

    async def retry_webhook(self, webhook_id: str) -> bool:
        """Make a dead or delivered webhook due at once, its attempts forgotten."""

    async def signing_keys(self) -> list[SigningKey]:
        """The public halves of all webhook keys, those that sign first, then next, then retired."""

    async def put_signing_keys(self, keys: Sequence[SigningKey]) -> None:
        """Add or change these keys together; `changed_at` is set to now where the state is new."""

    async def now(self) -> float:
        """The store's clock."""
