"""Rows of the stores: the columns of each table, and the objects that rows hold.

The columns are the same in every store, so that rows can be copied between them.
Values are text, numbers or None; flags are 0 or 1, lists and mappings JSON, secrets hex.
The place of a job in the queue is that of its row, so it has no column here.
"""

import json
from collections.abc import Iterable
from typing import Any, Protocol

from deployments.florence import identity
from deployments.jobs import job_log as logs
from deployments.jobs.api_key import ApiKey
from deployments.jobs.job import Job, JobState, JobStatus, Lease, StoredResponse
from deployments.jobs.store import StoreStats
from deployments.webhooks.webhook import Webhook, WebhookState

COLUMNS: dict[str, tuple[str, ...]] = {
    "request": (
        "id",
        "key_id",
        "path",
        "input",  # None once it is forgotten
        "base_url",
        "priority",
        "start_by",  # when the time to start is over, None without a bound
        "max_attempts",
        "webhook_url",
        "idempotency_key",
        "fingerprint",  # of path and input, None without an idempotency key
        "keeps_input",  # 0 or 1
        "files_ttl_s",
        "state",
        "attempts",
        "token",  # of the latest lease; 0 before the first
        "owner",  # the worker that holds the lease
        "lease_until",
        "not_before",  # end of a delay before the next attempt
        "cancel_asked",  # 0 or 1
        "created_at",
        "ended_at",
        "expires_at",
        "status",  # of the response; 0 while there is none
        "body",
        "headers",  # JSON
        "error",
        "error_type",
        "inference_s",
        "files",  # JSON
        "logs",  # one JSON object a line
        "trace",  # W3C's traceparent; empty for none
        "num_tokens",  # of the answer; None where nobody counted
        "truncated",  # 0 or 1
    ),
    "webhook": (
        "id",
        "key_id",
        "url",
        "body",
        "state",
        "attempts",
        "token",
        "next_at",
        "created_at",
        "last_status",
        "last_error",
        "trace",
    ),
    "api_key": (
        "id",
        "hash",
        "name",
        "concurrency",
        "rate",
        "created_at",
        "expires_at",
        "revoked_at",
        "adapter",
    ),
    "usage": ("key_id", "day", "path", "requests", "images", "model_s"),
    "signing_key": ("kid", "x", "state", "changed_at"),
    "secret": ("name", "value"),
}
TABLES = tuple(COLUMNS)


class Columns(Protocol):
    """A row, whose values are found by the names of its columns."""

    def __getitem__(self, column: str, /) -> Any: ...


def job_in(row: Columns, now: float) -> Job:
    """A job that was claimed at `now`."""
    return Job(
        lease=Lease(row["id"], row["token"]),
        attempt=row["attempts"],
        key_id=row["key_id"],
        path=row["path"],
        input=row["input"] or "",
        base_url=row["base_url"],
        priority=row["priority"],
        files_ttl_s=row["files_ttl_s"],
        waited_s=now - row["created_at"],
        trace=row["trace"],
    )


def status_in(row: Columns, position: int | None) -> JobStatus:
    """The status of a job, which has a position while it is queued."""
    return JobStatus(
        id=row["id"],
        path=row["path"],
        state=JobState(row["state"]),
        position=position,
        logs=logs.decode(row["logs"]),
        error=row["error"],
        error_type=row["error_type"],
        inference_s=row["inference_s"],
        num_tokens=row["num_tokens"],
        truncated=bool(row["truncated"]),
        model=identity.model_in(json.loads(row["headers"])),
    )


def response_in(row: Columns) -> StoredResponse:
    headers = json.loads(row["headers"])
    return StoredResponse(JobState(row["state"]), row["status"], row["body"], headers)


def webhook_in(row: Columns) -> Webhook:
    values = {column: row[column] for column in COLUMNS["webhook"]}
    return Webhook(**values | {"state": WebhookState(row["state"])})


def key_in(row: Columns) -> ApiKey:
    return ApiKey(**{column: row[column] for column in COLUMNS["api_key"]})


def stats_in(
    counted: Columns, busiest: Iterable[Columns], free_bytes: int | None = None
) -> StoreStats:
    """What was counted, and the keys that run most."""
    return StoreStats(
        queued=counted["queued"],
        running=counted["running"],
        keys={row["key_id"]: row["running"] for row in busiest},
        webhooks={state: counted[state] for state in WebhookState},
        overdue_s=counted["overdue_s"],
        size_bytes=counted["size_bytes"],
        free_bytes=free_bytes,
    )
