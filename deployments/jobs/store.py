"""The store: where requests, webhooks and keys are kept, as one protocol.

Every method is one transaction, which has been made durable when the method returns.
All times are read from the store's own clock, so callers need not agree on the time.
Any method may raise StoreUnavailable when the store cannot be reached.
Whoever is given no lease on a request, or an older one than the latest, changes nothing of it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deployments.jobs.api_key import ApiKey, Usage
from deployments.jobs.job import (
    Backlog,
    Cancellation,
    Heartbeat,
    Job,
    JobOutcome,
    JobState,
    JobStatus,
    Lease,
    Rescued,
    StoredResponse,
    Submission,
    Submitted,
)
from deployments.webhooks.webhook import WebhookState, WebhookStore

POSITION_CAP = 1000  # positions beyond it are all told as this one

MAX_COUNTED = 10_000  # statistics count no further: counting takes time
MAX_KEYS = 20

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StoreStats:
    """Numbers of jobs and webhooks by state, each up to MAX_COUNTED, and the store's size.

    `queued` includes jobs that may not be claimed yet.
    `keys` has the running jobs and slots of the MAX_KEYS busiest keys.
    `overdue_s` is how long the first webhook that is due has been due.
    `size_bytes` and `free_bytes` are None where there is no such file or disk.
    """

    queued: int = 0
    running: int = 0
    keys: Mapping[str, int] = field(default_factory=dict)
    webhooks: Mapping[WebhookState, int] = field(default_factory=dict)
    overdue_s: float = 0.0
    size_bytes: int | None = None
    free_bytes: int | None = None


class JobStore(Protocol):
    """The queue."""

    async def submit(self, submission: Submission) -> Submitted:
        """Queue a request; it survives everything from here on.

        The same id again, or the same idempotency key of the same API key, gives the request
        that is there, queued or long ended, with `created` false.

        Raises:
            QueueFull: `max_queue_length` requests wait already, or the store's own bound.
            IdempotencyConflict: the idempotency key was used for another path or input.
        """

    async def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        """Take up to `limit` queued requests, in the order of priority and arrival.

        Each becomes running, with one attempt and one token more.
        Never takes one that waits out a delay, whose time to start is over,
        or whose key runs as many as it may (its running requests and slots together),
        even when several claim at once; others behind it are taken instead.
        """

    async def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        """Extend the leases by `lease_s` from now; one answer each, in the same order."""

    async def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        """End the request with `outcome`, for good; False when the lease is not the latest.

        Writes in the same transaction: the webhook, if one is wanted; when to forget it
        (`result_ttl_s`; `large_result_ttl_s` for a large body or a forgotten input);
        the forgetting of the input, if wanted; the key's usage.
        """

    async def retry_or_finish(
        self, lease: Lease, outcome: JobOutcome, delay_s: float = 0.0
    ) -> JobState | None:
        """The attempt failed for a reason that another attempt may not meet.

        Queues the request again, to be claimed no earlier than in `delay_s`;
        ends it with `outcome` when it has no attempt left; cancels it when that was asked for.
        Returns the state that it is in now; None when the lease is not the latest.
        """

    async def requeue(self, lease: Lease, delay_s: float = 0.0) -> bool:
        """Hand a request back that was not worked on: queued again, the attempt not counted.

        It keeps its place; one that was to be cancelled is.
        False when the lease is not the latest.
        """

    async def cancel(self, key_id: str, request_id: str) -> Cancellation:
        """Cancel the request of `key_id`: at once while it is queued, by a flag for its worker
        while it is running (see Heartbeat). Asked for again, a running one is still REQUESTED.
        """

    async def rescue(self, limit: int = 100) -> Rescued:
        """Care for requests that nobody cares for, up to `limit` of each kind.

        Running ones whose lease is over: queued again (`token` one more), ended as
        RunnerDisconnected when no attempt is left, or cancelled when that was asked for.
        Queued ones that had no attempt in the time to start: ended as StartTimeout.
        """

    async def prune(self, limit: int = 500) -> list[str]:
        """Forget up to `limit` ended requests whose time is over, but none whose webhook is
        pending; also webhooks and revoked keys of old. Returns the names of files to remove.
        """

    async def status(self, key_id: str, request_id: str) -> JobStatus | None:
        """How the request of `key_id` stands; None when there is none, or it is another's."""

    async def result(self, key_id: str, request_id: str) -> StoredResponse | None:
        """The response of the request of `key_id`; None when there is none."""

    async def position(self, request_id: str) -> int | None:
        """How many queued requests are ahead, at most POSITION_CAP; None when it is not queued."""

    async def backlog(self, cap: int = 1000) -> Backlog:
        """How many wait, counted up to `cap`, and how long the oldest has waited."""

    async def stats(self, cap: int = MAX_COUNTED, max_keys: int = MAX_KEYS) -> StoreStats:
        """What it holds, each number counted up to `cap`, and the `max_keys` busiest keys."""

    async def now(self) -> float:
        """The store's clock."""


class KeyStore(Protocol):
    """Who may call, and how much."""

    async def add_key(self, key: ApiKey) -> None:
        """Keep a new key; `created_at` is set to now.

        Raises:
            ValueError: its id or hash is taken.
        """

    async def key_by_hash(self, key_hash: str) -> ApiKey | None:
        """The key with this hash, if it is neither revoked nor expired."""

    async def keys(self) -> list[ApiKey]:
        """All keys, also revoked ones, oldest first."""

    async def revoke_key(self, key_id: str) -> bool:
        """Let the key open nothing any more; False when there is no such key, or it was revoked."""

    async def replace_key_hash(self, key_id: str, key_hash: str) -> bool:
        """Give the key another secret; its requests stay its own. False as for revoke_key."""

    async def check_rate_limit(self, key_id: str, rate: float, burst: int) -> float:
        """Count one request against `rate` per second with up to `burst` at once.

        0.0 when it is admitted; else the seconds until one would be, and nothing is counted.
        """

    async def acquire_slot(self, key_id: str, run_id: str, ttl_s: float) -> bool:
        """Take one of the key's places for a synchronous run, for at most `ttl_s`.

        False when its running requests and slots together have reached its `concurrency`;
        exact under concurrent callers and claimers. A key that is not stored has no bound.
        """

    async def release_slot(self, run_id: str) -> None:
        """Give the place back."""

    async def add_usage(self, usages: Sequence[Usage]) -> None:
        """Add to what keys have used."""

    async def usage(self, since_day: str = "", key_id: str | None = None) -> list[Usage]:
        """What was used, by day, key and endpoint, from `since_day` on."""

    async def secret(self, name: str, fresh: bytes) -> bytes:
        """The secret called `name`, the same for everybody; `fresh` at the first call."""

    async def now(self) -> float:
        """The store's clock."""


class Store(JobStore, WebhookStore, KeyStore, Protocol):
    """All three."""

    async def close(self) -> None:
        """Let go of files and connections."""


class RowStore(Store, Protocol):
    """A store in this process, whose rows can be copied."""

    def read_rows(self, table: str) -> AsyncIterator[Row]:
        """Every row of one of `rows.TABLES`, in the order of insertion; for copies."""

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows that another store has read; the order of requests is kept.

        Raises:
            ValueError: one is there already.
        """
