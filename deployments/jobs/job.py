"""A job: a request in the durable queue, from its submit to its outcome.

                 submit                claim
    (nothing) ──────────▶ queued ──────────────▶ running ──▶ done | error | cancelled
                            │  ▲                    │
                            │  └── requeue, retry, ─┘
                            │      expired lease
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
    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds its lease
    DONE = "done"  # it has a result
    ERROR = "error"  # it has failed for good
    CANCELLED = "cancelled"  # its caller cancelled it

    @property
    def is_terminal(self) -> bool:
        """Whether it never changes again."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Cancellation(StrEnum):
    """What a cancel found, in fal's words."""

    REQUESTED = "CANCELLATION_REQUESTED"
    ALREADY_COMPLETED = "ALREADY_COMPLETED"
    NOT_FOUND = "NOT_FOUND"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job as its client submits it.

    `input` is the checked input as JSON; `priority` 0 runs before 1.
    `start_timeout_s` limits the wait for the first attempt.
    `max_queue_length` refuses the job when that many jobs are queued.
    `keeps_input` is false to delete the input when the job ends.
    `files_ttl_s` is the lifetime of the result's files, None for the result's own.
    `max_attempts` is 1 for a job that must not be retried.
    `trace` is a W3C `traceparent`, empty for none.
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
    """The answer to a submit; with a repeated idempotency key, the job that existed."""

    id: str
    position: int
    created: bool


@dataclass(frozen=True)
class Lease:
    """The right to work on a job. A lease with a higher token ends this one (fencing)."""

    id: str
    token: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that a worker has claimed; `attempt` counts from 1."""

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

    @property
    def id(self) -> str:
        return self.lease.id


@dataclass(frozen=True)
class Heartbeat:
    """The answer to a heartbeat: is the lease the latest, and was the job cancelled?"""

    lease: Lease
    held: bool
    cancelled: bool


@dataclass(frozen=True)
class LogLine:
    """A line for a job's log; the event happened `age_s` before the line is stored."""

    message: str
    level: str = "INFO"
    age_s: float = 0.0


@dataclass(frozen=True)
class LogEntry:
    """A stored log line and the time of its event."""

    message: str
    level: str
    timestamp: float


@dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """How a job ends: the HTTP response to replay, and what is stored with it.

    `body` is JSON; `files` are the names of files that live as long as the job.
    `inference_s` is the time of the job's batch in the model, in seconds;
    `model_s` is the job's share of it, which counts as its key's usage.
    `num_tokens` is the length of the answer, None where it has none; `truncated` says that its
    limit of tokens cut it.
    """

    state: JobState
    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    error_type: str | None = None
    inference_s: float | None = None
    model_s: float = 0.0
    num_tokens: int | None = None
    truncated: bool = False
    files: tuple[str, ...] = ()
    logs: tuple[LogLine, ...] = ()

    @classmethod
    def done(cls, output: Any, **more: Any) -> Self:
        return cls(state=JobState.DONE, status=200, body=compact(output), **more)

    @classmethod
    def failed(cls, error: ServiceError, **more: Any) -> Self:
        """The outcome of a job that failed, with the response of a synchronous run."""
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
    """What a client sees of a job before it fetches the result.

    `position` is the number of jobs ahead while it is queued, exact up to 1000.
    `model` is who answered, empty while nobody has.
    """

    id: str
    path: str
    state: JobState
    position: int | None = None
    logs: tuple[LogEntry, ...] = ()
    error: str | None = None
    error_type: str | None = None
    inference_s: float | None = None
    num_tokens: int | None = None
    truncated: bool = False
    model: str = ""


@dataclass(frozen=True)
class StoredResponse:
    """The HTTP response of a job that has ended; `status` is 0 before that."""

    state: JobState
    status: int
    body: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Backlog:
    """The jobs that a worker could claim: their number (capped), and the oldest one's age."""

    queued: int
    oldest_s: float


@dataclass(frozen=True)
class Rescued:
    """Numbers of jobs that a rescue has moved, by their new state; `expired`: never started."""

    requeued: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


def compact(value: Any) -> str:
    """`value` as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def one_line(error: ServiceError) -> str:
    """The error's message; all faults of an input in one line."""
    detail = error.body()["detail"]
    if isinstance(detail, str):
        return detail
    return "; ".join(str(fault["msg"]) for fault in detail)
