"""A webhook as the store keeps it: written with the request's end, delivered at least once."""

import json
from dataclasses import dataclass
from enum import StrEnum

from deployments.jobs.job import JobOutcome, JobState, compact


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


def webhook_body(request_id: str, outcome: JobOutcome) -> str:
    """What the receiver is told, in fal's shape; the payload is the response's own body."""
    told = {
        "request_id": request_id,
        "gateway_request_id": request_id,
        "status": "OK" if outcome.state is JobState.DONE else "ERROR",
    }
    if outcome.state is not JobState.DONE:
        told["error"] = f"Invalid status code: {outcome.status}"
    return compact(told | {"payload": json.loads(outcome.body)})
