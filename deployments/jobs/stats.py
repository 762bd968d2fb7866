"""What a store holds, in numbers that cost it little."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.webhooks.webhook import WebhookState

CAP = 10_000  # a count stops there: more is too much in any case, and counting takes time
MAX_KEYS = 20


@dataclass(frozen=True, kw_only=True)
class StoreStats:
    """Requests and webhooks by state, counted up to a cap, and the room that they take.

    `queued` counts all that wait, also those that may not be claimed yet;
    `keys` has the running requests and places of those keys that have most;
    `overdue_s` is how long the first webhook that is due has been due;
    `size_bytes` and `free_bytes` are None where there is no such file or disk.
    """

    queued: int = 0
    running: int = 0
    keys: Mapping[str, int] = field(default_factory=dict)
    webhooks: Mapping[WebhookState, int] = field(default_factory=dict)
    overdue_s: float = 0.0
    size_bytes: int | None = None
    free_bytes: int | None = None
