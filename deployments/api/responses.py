"""What is sent back, in fal's shape: errors, and the status of a job.

Only three statuses exist on the wire: a job that failed or was cancelled is COMPLETED as well,
with `error` and `error_type`.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Request as HttpRequest
from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from deployments.api.hints import hint_of_method, hint_of_path
from deployments.errors import BadRequest, MethodNotAllowed, NotFound, ServiceError
from deployments.florence.schemas import TRUNCATED
from deployments.florence.tasks import APP
from deployments.jobs.job import JobState, JobStatus, LogEntry

Word = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
WAITING: dict[JobState, Word] = {JobState.QUEUED: "IN_QUEUE", JobState.RUNNING: "IN_PROGRESS"}
TOKENS = "How many tokens the answer has. An extension of fal's schema"
HINT = "How to do it right, where that is known. An extension of fal's schema"
ROUTE_ERRORS: dict[int, type[ServiceError]] = {404: NotFound, 405: MethodNotAllowed}


class ErrorResponse(BaseModel):
    """Why a request did not reach the model."""

    detail: str = Field(description="A sentence for people")
    error_type: str = Field(description="The error's name for programs")
    hint: str = Field("", description=HINT)


class Fault(BaseModel):
    """One thing that is wrong with the input."""

    loc: list[str | int] = Field(description="Where it is wrong")
    msg: str = Field(description="A sentence for people")
    type: str = Field(description="The error's name for programs")
    url: str = Field(description="Where to read more")
    ctx: dict[str, Any] = Field({}, description="The numbers behind the sentence")


class InputErrorResponse(BaseModel):
    """What is wrong with the input."""

    detail: list[Fault] = Field(description="One item for each fault")
    hint: str = Field("", description=HINT)


class FailureResponse(BaseModel):
    """A failure of the service: of the pipeline, or of the model on this one input."""

    detail: str | list[Fault] = Field(description="A sentence for people, or one item per fault")
    error_type: str = Field("", description="The error's name for programs, with a sentence")


class QueueLog(BaseModel):
    """A line of a job's log."""

    message: str = Field(description="What happened")
    timestamp: str = Field(description="When, in ISO 8601 and UTC")
    level: str = Field(description="STDERR, STDOUT, ERROR, INFO, WARN or DEBUG")
    source: str = Field("USER", description="Always USER")


class JobMetrics(BaseModel):
    """What a job took."""

    inference_time: float | None = Field(None, description="The model's time in seconds")
    tokens: int | None = Field(None, description=TOKENS)
    truncated: bool | None = Field(None, description=TRUNCATED)


class QueueStatus(BaseModel):
    """The status of a job, and the URLs for more."""

    status: Word = Field(description="Failed and cancelled requests are COMPLETED as well")
    request_id: str = Field(description="The request id")
    response_url: str = Field(description="GET the result here")
    status_url: str = Field(description="GET the status here")
    cancel_url: str = Field(description="PUT here to cancel the request")
    gateway_request_id: str | None = Field(None, description="The request id, when submitted")
    queue_position: int | None = Field(None, description="Requests ahead, while IN_QUEUE")
    logs: list[QueueLog] | None = Field(None, description="The log, empty unless asked for")
    metrics: JobMetrics | None = Field(None, description="What it took, when COMPLETED")
    error: str | None = Field(None, description="A sentence for people, when it failed")
    error_type: str | None = Field(None, description="The error's name for programs")

    def json_text(self) -> str:
        """As compact JSON, without what does not apply."""
        return self.model_dump_json(exclude_none=True)


class Cancelled(BaseModel):
    """The answer to a cancel."""

    status: Literal["CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"]


def error_response(error: ServiceError, **more: str) -> Response:
    return JSONResponse(more | error.body(), error.status, error.headers())


async def route_error_response(request: HttpRequest, error: Exception) -> Response:
    """The response when the router found no route, or none for this method."""
    found = ROUTE_ERRORS.get(getattr(error, "status_code", 0), BadRequest)()
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    allowed = (getattr(error, "headers", None) or {}).get("Allow")
    if not allowed:
        return error_response(found.with_hint(hint_of_path(path)))
    methods = allow(allowed)
    response = error_response(found.with_hint(hint_of_method(path, methods)))
    response.headers["Allow"] = ", ".join(methods)
    return response


def allow(methods: str) -> list[str]:
    """All methods of a route: HEAD comes with GET, and OPTIONS is answered everywhere."""
    names = set(methods.split(", ")) | {"OPTIONS"}
    return sorted(names | ({"HEAD"} if "GET" in names else set()))


def submitted_status(request_id: str, position: int, queue_url: str) -> QueueStatus:
    return QueueStatus(
        status="IN_QUEUE",
        request_id=request_id,
        **urls(request_id, queue_url),
        gateway_request_id=request_id,
        queue_position=position,
    )


def queue_status(status: JobStatus, logs: Sequence[LogEntry], queue_url: str) -> QueueStatus:
    """`status` in fal's words, with these lines of its log."""
    word = WAITING.get(status.state, "COMPLETED")
    return QueueStatus(
        status=word,
        request_id=status.id,
        **urls(status.id, queue_url),
        queue_position=(status.position or 0) if word == "IN_QUEUE" else None,
        logs=None if word == "IN_QUEUE" else [line(entry) for entry in logs],
        metrics=metrics_of(status) if word == "COMPLETED" else None,
        error=status.error,
        error_type=status.error_type,
    )


def metrics_of(status: JobStatus) -> JobMetrics:
    return JobMetrics(
        inference_time=status.inference_s,
        tokens=status.num_tokens,
        truncated=status.truncated or None,
    )


def urls(request_id: str, queue_url: str) -> dict[str, str]:
    """The URLs of a job; clients follow these as they are."""
    url = f"{queue_url}/{APP}/requests/{request_id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def line(entry: LogEntry) -> QueueLog:
    time = datetime.fromtimestamp(entry.timestamp, UTC).isoformat(timespec="microseconds")
    return QueueLog(message=entry.message, timestamp=time.replace("+00:00", "Z"), level=entry.level)


def status_response(status: QueueStatus, headers: Mapping[str, str]) -> Response:
    """202 while there is something to wait for, 200 afterwards."""
    code = 200 if status.status == "COMPLETED" else 202
    return Response(status.json_text(), code, headers, media_type="application/json")
