"""What every store agrees on when a request ends: how, what of it is kept, and for how long."""

import hashlib
import json
import time

from deployments.errors import ClientCancelled, RunnerDisconnected, StartTimeout
from deployments.jobs.api_key import Usage
from deployments.jobs.job import JobOutcome, JobState, compact
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import Webhook

DAY_S = 24 * 3600.0
WEBHOOK_TTL_S = 7 * DAY_S  # from its creation, unless it is pending
REVOKED_TTL_S = 30 * DAY_S  # a revoked key is listed for so long


def cancelled() -> JobOutcome:
    """The end of a request that its caller did not want any more."""
    return JobOutcome.failed(ClientCancelled())


def lost() -> JobOutcome:
    """The end of a request whose workers have all been lost."""
    return JobOutcome.failed(RunnerDisconnected())


def not_started() -> JobOutcome:
    """The end of a request that no worker took in time."""
    return JobOutcome.failed(StartTimeout())


def expires_at(outcome: JobOutcome, keeps_input: bool, rules: QueueSettings, now: float) -> float:
    """When a request that ends now is forgotten."""
    is_large = len(outcome.body.encode()) >= rules.large_result_bytes
    is_short = is_large or not keeps_input
    return now + (rules.large_result_ttl_s if is_short else rules.result_ttl_s)


def webhook_of(
    request_id: str, key_id: str, url: str, trace: str, outcome: JobOutcome, now: float
) -> Webhook:
    """The delivery that tells of the end, due at once."""
    return Webhook(
        id=request_id,
        key_id=key_id,
        url=url,
        body=webhook_body(request_id, outcome),
        next_at=now,
        created_at=now,
        trace=trace,
    )


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


def usage_of(key_id: str, path: str, outcome: JobOutcome, now: float) -> Usage:
    """What a request has used that ends now."""
    return Usage(
        key_id=key_id,
        day=day_of(now),
        path=path,
        requests=1,
        images=int(outcome.state is JobState.DONE),
        model_s=outcome.model_s,
    )


def day_of(now: float) -> str:
    """The day in UTC, as `YYYY-MM-DD`."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))


def fingerprint(path: str, input: str) -> str:
    """What stays of path and input to tell whether a repeated request is the same."""
    return hashlib.sha256(f"{path}\0{input}".encode()).hexdigest()
