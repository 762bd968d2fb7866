"""The store of jobs, webhooks and keys: three protocols, so that a user takes the one it needs.

Every method is one transaction, which is durable when the method returns.
All times are read from the store's own clock, so callers need not agree on the time.
Any method may raise StoreUnavailable.
A lease that is not the latest on its job changes nothing.
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

POSITION_CAP = 1000  # the highest position that is counted
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
        """Queue a job, which survives a crash from here on.

        The same id again, or the same idempotency key of the same API key, gives the job that is
        there, queued or ended, with `created` false.

        Raises:
            QueueFull: `max_queue_length` jobs are queued, or as many as the store takes.
            IdempotencyConflict: the idempotency key was used for another path or input.
        """

    async def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        """Lease up to `limit` queued jobs, in the order of priority and arrival.

        Each becomes running, with one attempt and one token more. Skipped are jobs whose delay is
        not over, whose time to start is over, and those of a key that has as many running jobs
        and slots as its limit allows, even under concurrent claims.
        """

    async def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        """Extend the leases by `lease_s` from now; one answer each, in the same order."""

    async def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        """End a job for good; False when the lease is not the latest.

        The same transaction writes the webhook, if one is wanted, adds the key's usage, removes
        the input, if it is not to be kept, and sets when the job is forgotten: after
        `result_ttl_s`, or `large_result_ttl_s` for a large body or a removed input.
        """

    async def retry_or_finish(
        self, lease: Lease, outcome: JobOutcome, delay_s: float = 0.0
    ) -> JobState | None:
        """An attempt has failed, and another one may succeed.

        The job is queued again, not to be claimed for `delay_s`. It ends with `outcome` when it
        has no attempt left, and is cancelled when that was asked for.
        Returns the job's new state; None when the lease is not the latest.
        """

    async def requeue(self, lease: Lease, delay_s: float = 0.0) -> bool:
        """Return a job that was not worked on: it keeps its place, and the attempt does not count.

        It is cancelled instead when that was asked for. False when the lease is not the latest.
        """

    async def cancel(self, key_id: str, request_id: str) -> Cancellation:
        """Cancel a job of `key_id`: a queued one at once, a running one by a flag (see Heartbeat).

        A running job that is cancelled again is still REQUESTED.
        """

    async def rescue(self, limit: int = 100) -> Rescued:
        """Act on up to `limit` jobs with an expired lease, and as many that were not started.

        A job with an expired lease is queued again with a new token; it ends as
        RunnerDisconnected when it has no attempt left, and is cancelled when that was asked for.
        A queued job whose time to start is over ends as StartTimeout, unless it had an attempt.
        """

    async def prune(self, limit: int = 500) -> list[str]:
        """Forget up to `limit` expired jobs, but none whose webhook is pending; also old webhooks
        and keys that were revoked long ago. Returns the names of files to remove.
        """

    async def status(self, key_id: str, request_id: str) -> JobStatus | None:
        """The status of a job of `key_id`; None when that key has no such job."""

    async def result(self, key_id: str, request_id: str) -> StoredResponse | None:
        """The response of a job of `key_id`; None when that key has no such job."""

    async def position(self, request_id: str) -> int | None:
        """How many queued jobs are ahead, at most POSITION_CAP; None when it is not queued."""

    async def backlog(self, cap: int = 1000) -> Backlog:
        """How many jobs could be claimed, counted up to `cap`, and the age of the oldest."""

    async def stats(self, cap: int = MAX_COUNTED, max_keys: int = MAX_KEYS) -> StoreStats:
        """What the store holds: each number up to `cap`, and the `max_keys` busiest keys."""

    async def now(self) -> float:
        """The store's clock, in seconds since the epoch."""


class KeyStore(Protocol):
    """API keys, their limits, and what they have used."""

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
        """Refuse the key from now on; False when there is no such key, or it was revoked before."""

    async def replace_key_hash(self, key_id: str, key_hash: str) -> bool:
        """Give the key another secret; its jobs stay its own. False as for revoke_key."""

    async def check_rate_limit(self, key_id: str, rate: float, burst: int) -> float:
        """Count one request against `rate` per second with up to `burst` at once.

        0.0 when it is admitted; else the seconds until one would be, and nothing is counted.
        A call that is retried after a lost connection counts once.
        """

    async def acquire_slot(self, key_id: str, run_id: str, ttl_s: float) -> bool:
        """Take one of the key's slots for a synchronous run, for at most `ttl_s`.

        False when its running jobs and slots together have reached its `concurrency`; exact under
        concurrent calls and claims. A key that is not stored has no limit.
        """

    async def release_slot(self, run_id: str) -> None:
        """Free the slot."""

    async def add_usage(self, usages: Sequence[Usage]) -> None:
        """Add to what keys have used; as for check_rate_limit, a retried call counts once."""

    async def usage(self, since_day: str = "", key_id: str | None = None) -> list[Usage]:
        """What was used, by day, key and endpoint, from `since_day` on."""

    async def secret(self, name: str, fresh: bytes) -> bytes:
        """The secret called `name`, the same for all callers; `fresh` at the first call."""

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
        """Add rows that another store has read; the order of jobs is kept.

        Raises:
            ValueError: one is there already.
        """


class SqlStore(RowStore, Protocol):
    """One with a schema: the number of its latest migration."""

    @property
    def schema(self) -> int: ...
