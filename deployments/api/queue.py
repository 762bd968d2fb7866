"""The queue over HTTP: submit a job, poll its status, fetch its result, cancel it.

Of a submit's query and headers, what is not known is ignored;
what is known and cannot be understood is refused at once.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.api import openapi
from deployments.api.admission import RequestLimits
from deployments.api.auth import Caller
from deployments.api.body import read_input
from deployments.api.deadline import within
from deployments.api.dependencies import Dependencies
from deployments.api.headers import base_url, files_ttl_s, priority, queue_url, start_timeout_s
from deployments.api.hints import hint_of_path
from deployments.api.responses import (
    error_response,
    queue_status,
    status_response,
    submitted_status,
)
from deployments.api.sse import HEADERS, EventStream, StatusEvents, StatusStream
from deployments.api.usage_meter import UsageMeter
from deployments.errors import BadRequest, NotFound, QueueFull, RequestInProgress
from deployments.florence import identity
from deployments.florence.tasks import APP, TASKS, Task
from deployments.jobs.job import Cancellation, JobStatus, Submission, Submitted
from deployments.net.guard import CallRefused
from deployments.net.guarded_client import parse_url
from deployments.telemetry.request_span import RequestSpan

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
UNKNOWN = "There is no request with this id, or its result is not kept any more."
CANCEL_STATUS = {Cancellation.REQUESTED: 202, Cancellation.ALREADY_COMPLETED: 400}
YES = ("1", "true", "yes")
MAX_IDEMPOTENCY_KEY = 255
DELIVERY = "x-florence-delivery"  # HAProxy's id for a request that it may deliver twice
MAX_DIGITS = 9


def router(dependencies: Dependencies, limits: RequestLimits, usage: UsageMeter) -> APIRouter:
    """A submit for each task, and the routes of a job, with and without its task in the path."""
    routes = APIRouter()
    for task in TASKS.values():
        routes.add_api_route(
            f"/queue/{task.endpoint}",
            SubmitEndpoint(task, dependencies, limits, usage).post,
            methods=["POST"],
            name="queue_submit",
            openapi_extra=openapi.submit_operation(task),
        )
    endpoints = JobEndpoints(dependencies)
    add_routes(routes, f"/queue/{APP}/requests/{{request_id}}", endpoints, is_described=True)
    add_routes(routes, f"/queue/{APP}/{{task}}/requests/{{request_id}}", endpoints)
    return routes


def add_routes(
    routes: APIRouter, path: str, endpoints: "JobEndpoints", is_described: bool = False
) -> None:
    add_get = partial(openapi.add_get, routes, include_in_schema=is_described)
    add_get(
        f"{path}/status",
        endpoints.status,
        "queue_status",
        openapi_extra=openapi.status_operation(),
    )
    add_get(
        f"{path}/status/stream",
        endpoints.stream,
        "queue_stream",
        status_code=200,  # FastAPI reads it from the signature of other responses
        response_class=EventStream,
        openapi_extra=openapi.stream_operation(),
    )
    add_get(path, endpoints.result, "queue_result", openapi_extra=openapi.result_operation())
    openapi.add_get(
        routes, f"{path}/response", endpoints.result, "queue_result", include_in_schema=False
    )
    routes.add_api_route(
        f"{path}/cancel",
        endpoints.cancel,
        methods=["PUT"],
        name="queue_cancel",
        status_code=CANCEL_STATUS[Cancellation.REQUESTED],
        include_in_schema=is_described,
        openapi_extra=openapi.cancel_operation(),
    )


class SubmitEndpoint:
    def __init__(
        self, task: Task, dependencies: Dependencies, limits: RequestLimits, usage: UsageMeter
    ) -> None:
        self._task = task
        self._dependencies = dependencies
        self._settings = dependencies.settings
        self._limits = limits
        self._usage = usage

    async def post(self, request: HttpRequest) -> Response:
        """Store a job for the body; once this has answered, the job survives any crash."""
        with self._dependencies.request_span("submit", request, self._task) as span:
            submitted = await self._submit(request, span)
        self._dependencies.wake()
        return self._render(request, submitted)

    async def _submit(self, request: HttpRequest, span: RequestSpan) -> Submitted:
        deadline_s = self._settings.ingress.deadline_s
        async with within(deadline_s), self._limits.admit_submit(request, span) as caller:
            submission = await read_submission(request, self._task, caller, self._dependencies)
            submitted = await self._store(replace(submission, trace=span.traceparent))
            span.set_request(submitted.id)
            self._usage.submitted(caller.key_id)
            return submitted

    async def _store(self, submission: Submission) -> Submitted:
        try:
            return await self._dependencies.store.submit(submission)
        except QueueFull:
            retry_after_s = self._limits.retry_after_s(self._settings.queue.max_running)
            raise QueueFull.after(retry_after_s) from None

    def _render(self, request: HttpRequest, submitted: Submitted) -> Response:
        url = queue_url(request, self._settings.ingress.public_url)
        body = submitted_status(submitted.id, submitted.position, url).json_text()
        headers = {"x-fal-request-id": submitted.id}
        if not submitted.created:
            headers["Idempotent-Replayed"] = "true"
        return Response(body, headers=headers, media_type="application/json")


class JobEndpoints:
    """One job, for the key that submitted it."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._store = dependencies.store
        self._public_url = dependencies.settings.ingress.public_url

    async def status(self, request: HttpRequest) -> Response:
        """The status."""
        caller = await self._authorize(request)
        status = await self._find(caller, request)
        if status is None:
            return unknown()
        logs = status.logs if wants_logs(request) else ()
        answer = queue_status(status, logs, self._queue_url(request))
        return status_response(answer, identity.headers(status.model))

    async def stream(self, request: HttpRequest) -> Response:
        """The status, and each change of it until the job has ended."""
        caller = await self._authorize(request)
        status = await self._find(caller, request)
        if status is None:
            return unknown()
        model = identity.headers(status.model)  # of a job that has ended before
        if request.method == "HEAD":
            return Response(headers=HEADERS | model, media_type=EventStream.media_type)
        return StatusStream(self._status_events(caller, request).events(status), model)

    async def result(self, request: HttpRequest) -> Response:
        """The response that a synchronous run would have had, also when it is an error."""
        caller = await self._authorize(request)
        request_id = id_in(request)
        result = request_id and await self._store.result(caller.key_id, request_id)
        if not request_id or not result:
            return unknown()
        if not result.state.is_terminal:
            raise RequestInProgress
        headers = {**result.headers, "x-fal-request-id": request_id}
        return Response(result.body, result.status, headers, media_type="application/json")

    async def cancel(self, request: HttpRequest) -> Response:
        """Cancel the job, whether it waits or runs."""
        caller = await self._authorize(request)
        request_id = id_in(request)
        if request_id is None:
            return unknown()
        found = await self._store.cancel(caller.key_id, request_id)
        if found is Cancellation.NOT_FOUND:
            return unknown()
        if found is Cancellation.REQUESTED:
            self._dependencies.wake()
        return JSONResponse({"status": str(found)}, CANCEL_STATUS[found])

    async def _authorize(self, request: HttpRequest) -> Caller:
        return await self._dependencies.keyring.authorize(request.headers)

    async def _find(self, caller: Caller, request: HttpRequest) -> JobStatus | None:
        request_id = id_in(request)
        return await self._store.status(caller.key_id, request_id) if request_id else None

    def _status_events(self, caller: Caller, request: HttpRequest) -> StatusEvents:
        find = partial(self._find, caller, request)
        describe = partial(queue_status, queue_url=self._queue_url(request))
        return StatusEvents(find, describe, wants_logs(request))

    def _queue_url(self, request: HttpRequest) -> str:
        return queue_url(request, self._public_url)


def id_in(request: HttpRequest) -> str | None:
    """The id in the path, as the store writes it; None when it cannot be one of ours.

    Raises:
        NotFound: the task in the path does not exist.
    """
    task = request.path_params.get("task")
    if task is not None and task not in TASKS:
        raise NotFound().with_hint(hint_of_path(request.url.path))
    request_id = str(request.path_params["request_id"])
    return request_id.lower() if ID.fullmatch(request_id) else None


def wants_logs(request: HttpRequest) -> bool:
    """Whether the query asks for the log, in any client's spelling."""
    return request.query_params.get("logs", "").lower() in ("1", "true")


def unknown() -> Response:
    """The same response for a job that does not exist and for one of another key."""
    return error_response(NotFound(UNKNOWN), status=str(Cancellation.NOT_FOUND))


class Retries(BaseModel):
    """How often one cause of failure may be answered with another attempt."""

    model_config = ConfigDict(strict=True)

    retries: int | None = Field(None, ge=0)


class RetryConfig(BaseModel):
    """fal's causes of failure after which it would begin a job again."""

    model_config = ConfigDict(strict=True)

    timeout: Retries = Retries(retries=None)
    server_error: Retries = Retries(retries=None)
    connection_error: Retries = Retries(retries=None)

    def fewest(self) -> int | None:
        """The smallest number given: attempts are counted here whatever their cause."""
        causes = (self.timeout, self.server_error, self.connection_error)
        return min((each.retries for each in causes if each.retries is not None), default=None)


async def read_submission(
    request: HttpRequest, task: Task, caller: Caller, dependencies: Dependencies
) -> Submission:
    """The job that `request` submits for `task`.

    Raises:
        BadRequest: the query or a header cannot be understood.
        InvalidInput: the body does not fit the task.
    """
    headers, query, settings = request.headers, request.query_params, dependencies.settings
    submission = Submission(
        id=request.state.request_id,
        key_id=caller.key_id,
        path=task.path,
        input="",
        base_url=base_url(request, settings.ingress.public_url),
        priority=priority(headers),
        start_timeout_s=start_timeout_s(headers),
        max_attempts=max_attempts(headers, settings.queue.max_attempts),
        max_queue_length=max_queue_length(query),
        webhook_url=webhook_url(query),
        idempotency_key=idempotency_key(headers),
        keeps_input=headers.get("x-fal-store-io", "").strip() != "0",
        files_ttl_s=files_ttl_s(headers),
    )
    given = await read_input(request, task, caller, dependencies)
    return replace(submission, input=given.model_dump_json(exclude_none=True))


def max_attempts(headers: Mapping[str, str], most: int) -> int:
    """How many attempts the job may have, at most `most`."""
    if headers.get("x-fal-no-retry", "").strip().lower() in YES:
        return 1
    fewest = retry_config(headers.get("x-fal-retry-config", "{}")).fewest()
    return most if fewest is None else min(most, 1 + fewest)


def retry_config(text: str) -> RetryConfig:
    try:
        return RetryConfig.model_validate_json(text)
    except ValidationError:
        raise BadRequest(
            "X-Fal-Retry-Config must be a JSON object whose timeout, server_error and "
            'connection_error hold {"retries": a whole number}.'
        ) from None


def max_queue_length(query: Mapping[str, str]) -> int | None:
    """How many jobs may wait already; with more, this one is refused."""
    text = query.get("fal_max_queue_length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise BadRequest(
            f"fal_max_queue_length must be a whole number of at most {MAX_DIGITS} digits."
        )
    return int(text)


def webhook_url(query: Mapping[str, str]) -> str | None:
    """The URL to post the result to; its host is checked when it is resolved."""
    text = query.get("fal_webhook")
    if text is None:
        return None
    try:
        parse_url(text)
    except CallRefused as refused:
        raise BadRequest(f"fal_webhook must be an absolute http or https URL: {refused}.") from None
    return text


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The key that makes a repeated submit the same job; an empty key is none.

    The client's key goes before that of the proxy, whose repetitions the client never sees.
    """
    key = headers.get("idempotency-key", "").strip() or delivery(headers)
    if len(key) > MAX_IDEMPOTENCY_KEY or not key.isprintable():
        raise BadRequest(
            f"Idempotency-Key must be at most {MAX_IDEMPOTENCY_KEY} printable characters."
        )
    return key or None


def delivery(headers: Mapping[str, str]) -> str:
    """The proxy's id for this delivery, in a form that no client's key has by accident."""
    id_ = headers.get(DELIVERY, "").strip()
    return f"{DELIVERY} {id_}" if id_ else ""
