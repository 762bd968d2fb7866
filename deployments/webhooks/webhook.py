"""A webhook, the public half of a key that signs webhooks, and the store of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class WebhookState(StrEnum):
    PENDING = "pending"  # due now, or later after a failed attempt
    DELIVERED = "delivered"  # the receiver answered 2xx
    DEAD = "dead"  # given up


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """The delivery of one job's outcome. A job has at most one, so both have the same id.

    `body` is the JSON to send, fixed when the job ended.
    `attempts` counts the attempts that began.
    Times are seconds since the epoch on the store's clock.
    """

    id: str
    key_id: str
    url: str
    body: str
    state: WebhookState = WebhookState.PENDING
    attempts: int = 0
    token: int = 0  # fencing token of the latest lease
    next_at: float = 0.0
    created_at: float = 0.0
    last_status: int | None = None
    last_error: str | None = None
    trace: str = ""  # the job's W3C `traceparent`


@dataclass(frozen=True)
class DeliveryResult:
    """The result of one attempt to deliver a webhook.

    `status` is the receiver's HTTP status, if it answered.
    With an `error`, the webhook is due again in `retry_s`, or dead when that is None.
    """

    status: int | None = None
    error: str | None = None
    retry_s: float | None = None

    @property
    def state(self) -> WebhookState:
        if self.error is None:
            return WebhookState.DELIVERED
        return WebhookState.DEAD if self.retry_s is None else WebhookState.PENDING


class KeyState(StrEnum):
    NEXT = "next"  # published, so that receivers know it before it signs
    ACTIVE = "active"  # signs
    RETIRED = "retired"  # no longer signs; published while its webhooks may be under way


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """The public half of a signing key.

    `x` is base64url with padding; `state` is one of KeyState.
    """

    kid: str
    x: str
    state: str
    changed_at: float = 0.0


class WebhookStore(Protocol):
    """Webhooks to deliver, and the public halves of the keys that sign them.

    Any method may raise StoreUnavailable.
    """

    async def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        """Lease up to `limit` pending webhooks that are due; each begins one more attempt.

        Without `record_delivery` within `lease_s`, a webhook is due again.
        """

    async def record_delivery(self, webhook_id: str, token: int, result: DeliveryResult) -> bool:
        """Record an attempt; False when `token` is not the latest."""

    async def webhooks(self, state: WebhookState | None = None, limit: int = 100) -> list[Webhook]:
        """The latest webhooks, newest first; only those in `state` when it is given."""

    async def retry_webhook(self, webhook_id: str) -> bool:
        """Make a dead or delivered webhook due now, with all its attempts again."""

    async def signing_keys(self) -> list[PublicKey]:
        """All public keys: active, then next, then retired ones."""

    async def put_signing_keys(self, keys: Sequence[PublicKey]) -> None:
        """Add or change keys in one transaction; a new state sets `changed_at` to now."""

    async def now(self) -> float:
        """The store's clock."""
