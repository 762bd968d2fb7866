"""Reads what a client hands in to the queue: the input, and what its query and headers order.

What is not known is ignored; what is known and makes no sense is refused at once.
"""

from collections.abc import Mapping
from dataclasses import replace

import httpx2
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.api import headers as orders
from deployments.api.body import read_input
from deployments.api.lifecycle import files_ttl_s
from deployments.errors import BadRequest
from deployments.florence.tasks import Task
from deployments.jobs.job import Submission
from deployments.net.url import CallRefused, parse_url
from deployments.settings import Settings

YES = ("1", "true", "yes")
MAX_IDEMPOTENCY_KEY = 255
DELIVERY = "x-florence-delivery"  # HAProxy's id for what it may have to deliver twice
MAX_DIGITS = 9


class Retries(BaseModel):
    """How often one cause of failure may be met with another attempt."""

    model_config = ConfigDict(strict=True)

    retries: int | None = Field(None, ge=0)


class RetryConfig(BaseModel):
    """fal's causes of failure after which it would begin a request again."""

    model_config = ConfigDict(strict=True)

    timeout: Retries = Retries(retries=None)
    server_error: Retries = Retries(retries=None)
    connection_error: Retries = Retries(retries=None)

    def fewest(self) -> int | None:
        """The smallest number given, because attempts are counted here whatever their cause."""
        causes = (self.timeout, self.server_error, self.connection_error)
        return min((each.retries for each in causes if each.retries is not None), default=None)


async def read_submission(
    request: HttpRequest, task: Task, key_id: str, settings: Settings, num_beams: int
) -> Submission:
    """The request that `request` submits for `task`; it may ask for `num_beams` at most.

    Raises:
        BadRequest: the query or a header cannot be understood.
        InvalidInput: the body does not fit the task.
    """
    headers, query = request.headers, request.query_params
    submission = Submission(
        id=request.state.request_id,
        key_id=key_id,
        path=task.path,
        input="",
        base_url=orders.base_url(request, settings.ingress.public_url),
        priority=orders.priority(headers),
        start_timeout_s=orders.start_timeout_s(headers),
        max_attempts=max_attempts(headers, settings.queue.max_attempts),
        max_queue_length=max_queue_length(query),
        webhook_url=webhook_url(query),
        idempotency_key=idempotency_key(headers),
        keeps_input=headers.get("x-fal-store-io", "").strip() != "0",
        files_ttl_s=files_ttl_s(headers),
    )
    given = await read_input(request, task.input, settings.ingress.max_body_bytes, num_beams)
    return replace(submission, input=given.model_dump_json(exclude_none=True))


def max_attempts(headers: Mapping[str, str], most: int) -> int:
    """How often the request may be begun, `most` times at the most."""
    if headers.get("x-fal-no-retry", "").strip().lower() in YES:
        return 1
    fewest = retry_config(headers.get("x-fal-retry-config", "{}")).fewest()
    return most if fewest is None else min(most, 1 + fewest)


def retry_config(text: str) -> RetryConfig:
    """X-Fal-Retry-Config."""
    try:
        return RetryConfig.model_validate_json(text)
    except ValidationError:
        raise BadRequest(
            "X-Fal-Retry-Config must be a JSON object whose timeout, server_error and "
            'connection_error hold {"retries": a whole number}.'
        ) from None


def max_queue_length(query: Mapping[str, str]) -> int | None:
    """How many may wait before this one is not wanted."""
    text = query.get("fal_max_queue_length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise BadRequest(
            f"fal_max_queue_length must be a whole number of at most {MAX_DIGITS} digits."
        )
    return int(text)


def webhook_url(query: Mapping[str, str]) -> str | None:
    """Where to tell of the end; whether that host may be called is seen when it is resolved."""
    text = query.get("fal_webhook")
    if text is None:
        return None
    try:
        parse_url(text)
    except httpx2.InvalidURL:
        raise BadRequest("fal_webhook must be an absolute http or https URL.") from None
    except CallRefused as refused:
        raise BadRequest(f"fal_webhook must be an absolute http or https URL: {refused}.") from None
    return text


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """What tells a repeated submit from a new one; an empty key is none.

    The client's own word goes before that of the proxy, whose repetitions the client never sees.
    """
    key = headers.get("idempotency-key", "").strip() or delivery(headers)
    if len(key) > MAX_IDEMPOTENCY_KEY or not key.isprintable():
        raise BadRequest(
            f"Idempotency-Key must be at most {MAX_IDEMPOTENCY_KEY} printable characters."
        )
    return key or None


def delivery(headers: Mapping[str, str]) -> str:
    """What the proxy calls this request, apart from all names that clients give."""
    id_ = headers.get(DELIVERY, "").strip()
    return f"{DELIVERY} {id_}" if id_ else ""
