"""The transitions of a job, as every store writes them: to its end, or back to the queue.

The stores lock a row, get the transition from here, and write it.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.errors import ClientCancelled, RunnerDisconnected, StartTimeout
from deployments.jobs import job_log as logs
from deployments.jobs.api_key import Usage
from deployments.jobs.job import JobOutcome, JobState, LogLine, Rescued, compact
from deployments.jobs.rows import Columns
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import Webhook

DAY_S = 24 * 3600.0
WEBHOOK_TTL_S = 7 * DAY_S  # from its creation, unless it is pending
REVOKED_KEY_TTL_S = 30 * DAY_S


@dataclass(frozen=True)
class End:
    """A locked job and how it ends."""

    row: Columns
    outcome: JobOutcome

    @property
    def state(self) -> JobState:
        return self.outcome.state


@dataclass(frozen=True)
class Requeue:
    """A locked job that is queued again, with its new attempts and token."""

    row: Columns
    lines: Sequence[LogLine]
    attempts: int
    token: int
    delay_s: float = 0.0
    state: JobState = JobState.QUEUED


Transition = End | Requeue


def after_failure(row: Columns, outcome: JobOutcome, delay_s: float) -> Transition:
    """An attempt has failed."""
    if row["cancel_asked"]:
        return End(row, cancelled())
    if row["attempts"] >= row["max_attempts"]:
        return End(row, outcome)
    return Requeue(row, logs.queued_again(outcome), row["attempts"], row["token"], delay_s)


def after_return(row: Columns, delay_s: float) -> Transition:
    """A worker hands a job back that it did not work on."""
    if row["cancel_asked"]:
        return End(row, cancelled())
    return Requeue(row, [logs.QUEUED_AGAIN], row["attempts"] - 1, row["token"], delay_s)


def after_loss(row: Columns) -> Transition:
    """A lease is over. Should its worker come back, the new token shuts it out."""
    if row["cancel_asked"]:
        return End(row, cancelled())
    if row["attempts"] >= row["max_attempts"]:
        return End(row, JobOutcome.failed(RunnerDisconnected()))
    return Requeue(row, [logs.QUEUED_AGAIN], row["attempts"], row["token"] + 1)


def cancelled() -> JobOutcome:
    return JobOutcome.failed(ClientCancelled())


def not_started() -> JobOutcome:
    return JobOutcome.failed(StartTimeout())


def rescued(lost: Sequence[Transition], num_expired: int) -> Rescued:
    states = [transition.state for transition in lost]
    return Rescued(
        requeued=states.count(JobState.QUEUED),
        failed=states.count(JobState.ERROR),
        cancelled=states.count(JobState.CANCELLED),
        expired=num_expired,
    )


def end_values(end: End, rules: QueueSettings, now: float) -> dict[str, Any]:
    outcome = end.outcome
    return {
        "state": outcome.state,
        "expires_at": expires_at(outcome, bool(end.row["keeps_input"]), rules, now),
        "status": outcome.status,
        "body": outcome.body,
        "headers": compact(dict(outcome.headers)),
        "error": outcome.error,
        "error_type": outcome.error_type,
        "inference_s": outcome.inference_s,
        "num_tokens": outcome.num_tokens,
        "truncated": int(outcome.truncated),
        "files": compact(outcome.files),
        "logs": logs.encode(logs.ended(outcome), now),
    }


def requeue_values(requeue: Requeue, now: float) -> dict[str, Any]:
    return {
        "not_before": now + requeue.delay_s,
        "attempts": requeue.attempts,
        "token": requeue.token,
        "logs": logs.encode(requeue.lines, now),
    }


def expires_at(outcome: JobOutcome, keeps_input: bool, rules: QueueSettings, now: float) -> float:
    is_large = len(outcome.body.encode()) >= rules.large_result_bytes
    is_short = is_large or not keeps_input
    return now + (rules.large_result_ttl_s if is_short else rules.result_ttl_s)


def webhook_of(row: Columns, outcome: JobOutcome, now: float) -> Webhook | None:
    """The delivery of an outcome, due at once; None when none is wanted."""
    if not row["webhook_url"]:
        return None
    return Webhook(
        id=row["id"],
        key_id=row["key_id"],
        url=row["webhook_url"],
        body=webhook_body(row["id"], outcome),
        next_at=now,
        created_at=now,
        trace=row["trace"],
    )


def webhook_body(request_id: str, outcome: JobOutcome) -> str:
    """What the receiver gets, in fal's shape; the payload is the response's own body."""
    body = {
        "request_id": request_id,
        "gateway_request_id": request_id,
        "status": "OK" if outcome.state is JobState.DONE else "ERROR",
    }
    if outcome.state is not JobState.DONE:
        body["error"] = f"Invalid status code: {outcome.status}"
    return compact(body | {"payload": json.loads(outcome.body)})


def usage_of(row: Columns, outcome: JobOutcome, now: float) -> Usage:
    return Usage(
        key_id=row["key_id"],
        day=day_of(now),
        path=row["path"],
        requests=1,
        images=int(outcome.state is JobState.DONE),
        model_s=outcome.model_s,
    )


def day_of(now: float) -> str:
    """The day in UTC, as `YYYY-MM-DD`."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))


def fingerprint(path: str, input: str) -> str:
    """A hash that is the same when a submit is repeated."""
    return hashlib.sha256(f"{path}\0{input}".encode()).hexdigest()
