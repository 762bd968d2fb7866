"""A queued request: what a client hands in, what a worker holds, and how it ends.

                 submit                claim
    (nothing) ──────────▶ queued ──────────────▶ running ──▶ done | error | cancelled
                            │  ▲                    │
                            │  └── release, retry, ─┘
                            │      lost lease
                            └──▶ cancelled | error (not started in time)

A terminal state never changes.
Times are seconds since the epoch on the store's clock.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from deployments.errors import ClientCancelled, ServiceError


class JobState(StrEnum):
    """Where a request is in its life."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds its lease
    DONE = "done"  # it has a result
    ERROR = "error"  # it has failed for good
    CANCELLED = "cancelled"  # its caller did not want it any more

    @property
    def is_terminal(self) -> bool:
        """Whether it stays like that."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Cancellation(StrEnum):
    """What a cancel found, in fal's words."""

    REQUESTED = "CANCELLATION_REQUESTED"
    ALREADY_COMPLETED = "ALREADY_COMPLETED"
    NOT_FOUND = "NOT_FOUND"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A request as its client hands it in.

    `input` is the checked input as JSON; `priority` 0 runs before 1;
    `start_timeout_s` is how long it may wait for its first worker;
    `max_queue_length` refuses it when as many already wait;
    `keeps_input` is false when the input is to be forgotten as soon as it has ended;
    `files_ttl_s` is how long the files of its result are wanted, None for as long as the result;
    `max_attempts` is 1 for a request that must not be repeated;
    `trace` is the W3C `traceparent` of what it belongs to, empty for none.
    """

    id: str
    key_id: str
    path: str  # the task's, such as `region-proposal`
    input: str
    base_url: str = ""
    priority: int = 0
    start_timeout_s: float | None = None
    max_attempts: int = 3
    max_queue_length: int | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    keeps_input: bool = True
    files_ttl_s: float | None = None
    trace: str = ""


@dataclass(frozen=True)
class Submitted:
    """The answer to a submit: for a repeated idempotency key, the request that was there."""

    id: str
    position: int
    created: bool


@dataclass(frozen=True)
class Lease:
    """The right to work on a request; a later lease on it has a higher token and ends this one."""

    id: str
    token: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request that a worker holds: what was submitted, and the attempt that this is (from 1)."""

    lease: Lease
    attempt: int
    key_id: str
    path: str
    input: str
    base_url: str
    priority: int
    files_ttl_s: float | None
    waited_s: float
    trace: str = ""


@dataclass(frozen=True)
class Heartbeat:
    """What a heartbeat learns: whether the lease still holds, and whether the caller cancelled."""

    lease: Lease
    held: bool
    cancelled: bool


@dataclass(frozen=True)
class LogLine:
    """One line of a request's log; `age_s` is how long before it is stored it happened."""

    message: str
    level: str = "INFO"
    age_s: float = 0.0


@dataclass(frozen=True)
class LogEntry:
    """A stored line and when it happened."""

    message: str
    level: str
    timestamp: float


@dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """How a request ends: the response to replay, and what is kept beside it.

    `body` is JSON; `files` are the names of files that live as long as the request;
    `inference_s` is how long the model worked on it, in seconds; `model_s` is its own share of
    that, which counts as its key's usage: a batch is worked on together.
    """

    state: JobState
    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    error_type: str | None = None
    inference_s: float | None = None
    model_s: float = 0.0
    files: tuple[str, ...] = ()
    logs: tuple[LogLine, ...] = ()

    @classmethod
    def done(cls, output: Any, **more: Any) -> Self:
        """A result."""
        return cls(state=JobState.DONE, status=200, body=compact(output), **more)

    @classmethod
    def failed(cls, error: ServiceError, **more: Any) -> Self:
        """An error, as the client of a synchronous run would have seen it."""
        state = JobState.CANCELLED if isinstance(error, ClientCancelled) else JobState.ERROR
        logs = (*more.pop("logs", ()), LogLine(one_line(error), level="ERROR"))
        return cls(
            state=state,
            status=error.status,
            body=compact(error.body()),
            headers=error.headers(),
            error=one_line(error),
            error_type=error.type,
            logs=logs,
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What a client may know of a request while it waits for it.

    `position` is the number of requests ahead while it is queued, exact up to 1000.
    """

    id: str
    path: str
    state: JobState
    position: int | None = None
    logs: tuple[LogEntry, ...] = ()
    error: str | None = None
    error_type: str | None = None
    inference_s: float | None = None


@dataclass(frozen=True)
class StoredResponse:
    """The response of a request that has ended; `status` is 0 while it has not."""

    state: JobState
    status: int
    body: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Backlog:
    """The requests that a worker could claim: how many (capped), and the oldest one's age."""

    queued: int
    oldest_s: float


@dataclass(frozen=True)
class Rescued:
    """What a rescue has done with requests that nobody cared for, by number."""

    requeued: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


def compact(value: Any) -> str:
    """`value` as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def one_line(error: ServiceError) -> str:
    """What went wrong, for a log: all faults of an input in one line."""
    detail = error.body()["detail"]
    if isinstance(detail, str):
        return detail
    return "; ".join(str(fault["msg"]) for fault in detail)
