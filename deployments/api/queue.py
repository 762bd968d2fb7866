"""The queue over HTTP: submit a request, ask how it stands, fetch its result, cancel it."""

import re
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from deployments.api import headers as orders
from deployments.api import operations
from deployments.api.auth import Caller
from deployments.api.deadline import within
from deployments.api.dependencies import Services
from deployments.api.error_responses import refuse
from deployments.api.limits import Limits
from deployments.api.reading import add_reading
from deployments.api.request_span import visit
from deployments.api.retry_after import Drain
from deployments.api.status_stream import HEADERS, EventStream, Watch
from deployments.api.statuses import render, submitted, told
from deployments.api.submission import read_submission
from deployments.api.usage import Meter
from deployments.errors import NotFound, QueueFull, RequestInProgress
from deployments.florence.tasks import APP, TASKS, Task
from deployments.jobs.job import Cancellation, JobStatus, Submission, Submitted
from deployments.telemetry.request_span import RequestSpan

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
UNKNOWN = "There is no request with this id, or its result is not kept any more."
CANCEL_STATUS = {Cancellation.REQUESTED: 202, Cancellation.ALREADY_COMPLETED: 400}


def router(services: Services, limits: Limits, meter: Meter, drain: Drain) -> APIRouter:
    """A submit for each task; what can be asked about a request, with and without its task."""
    routes = APIRouter()
    for task in TASKS.values():
        routes.add_api_route(
            f"/queue/{task.endpoint}",
            Endpoint(task, services, limits, meter, drain).post,
            methods=["POST"],
            name="queue_submit",
            openapi_extra=operations.submit_operation(task),
        )
    queued = Queued(services)
    add_routes(routes, f"/queue/{APP}/requests/{{request_id}}", queued, is_described=True)
    add_routes(routes, f"/queue/{APP}/{{task}}/requests/{{request_id}}", queued)
    return routes


def add_routes(routes: APIRouter, path: str, queued: "Queued", is_described: bool = False) -> None:
    """What can be asked about the request at `path`."""
    read = partial(add_reading, routes, include_in_schema=is_described)
    read(
        f"{path}/status",
        queued.status,
        "queue_status",
        openapi_extra=operations.status_operation(),
    )
    read(
        f"{path}/status/stream",
        queued.stream,
        "queue_stream",
        response_class=EventStream,
        openapi_extra=operations.stream_operation(),
    )
    read(path, queued.result, "queue_result", openapi_extra=operations.result_operation())
    add_reading(routes, f"{path}/response", queued.result, "queue_result", include_in_schema=False)
    routes.add_api_route(
        f"{path}/cancel",
        queued.cancel,
        methods=["PUT"],
        name="queue_cancel",
        status_code=CANCEL_STATUS[Cancellation.REQUESTED],
        include_in_schema=is_described,
        openapi_extra=operations.cancel_operation(),
    )


class Endpoint:
    """The submit for one task."""

    def __init__(
        self, task: Task, services: Services, limits: Limits, meter: Meter, drain: Drain
    ) -> None:
        self._task = task
        self._services = services
        self._settings = services.settings
        self._limits = limits
        self._meter = meter
        self._drain = drain

    async def post(self, request: HttpRequest) -> Response:
        """Queue the task for the image of the body; it survives everything from the answer on."""
        with (
            visit("submit", request, self._task, self._services.tracer) as work,
            self._services.closing.inside(),
        ):
            found = await self._work(request, work)
        self._services.wake()
        return self._tell(request, found)

    async def _work(self, request: HttpRequest, work: RequestSpan) -> Submitted:
        caller = await self._services.keyring.authorize(request.headers)
        work.set_key(caller.key_id)
        await self._limits.admit(caller)
        async with within(self._settings.ingress.deadline_s):
            submission = await read_submission(
                request, self._task, caller.key_id, self._settings, self._services.num_beams
            )
            found = await self._submit(replace(submission, trace=work.traceparent))
        work.set_request(found.id)
        self._meter.submitted(caller.key_id)
        return found

    async def _submit(self, submission: Submission) -> Submitted:
        try:
            return await self._services.store.submit(submission)
        except QueueFull:
            raise QueueFull.after(self._drain.wait_s(self._settings.queue.max_running)) from None

    def _tell(self, request: HttpRequest, found: Submitted) -> Response:
        queue_url = orders.queue_url(request, self._settings.ingress.public_url)
        body = submitted(found.id, found.position, queue_url).json_text()
        headers = {"x-fal-request-id": found.id}
        if not found.created:
            headers["Idempotent-Replayed"] = "true"
        return Response(body, headers=headers, media_type="application/json")


class Queued:
    """What can be asked about one request, by the key that submitted it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._store = services.store
        self._public_url = services.settings.ingress.public_url

    async def status(self, request: HttpRequest) -> Response:
        """How the request stands."""
        caller = await self._authorize(request)
        status = await self._find(caller, request)
        if status is None:
            return unknown()
        logs = status.logs if wants_logs(request) else ()
        return render(told(status, logs, self._queue_url(request)))

    async def stream(self, request: HttpRequest) -> Response:
        """How the request stands, each time that changes, until it has ended."""
        caller = await self._authorize(request)
        status = await self._find(caller, request)
        if status is None:
            return unknown()
        if request.method == "HEAD":
            return Response(headers=HEADERS, media_type=EventStream.media_type)
        return EventStream(self._watch(caller, request).events(status), headers=HEADERS)

    async def result(self, request: HttpRequest) -> Response:
        """The response that a run would have had, also when it is an error."""
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
        """Stop waiting for the request, or working on it."""
        caller = await self._authorize(request)
        request_id = id_in(request)
        if request_id is None:
            return unknown()
        found = await self._store.cancel(caller.key_id, request_id)
        if found is Cancellation.NOT_FOUND:
            return unknown()
        if found is Cancellation.REQUESTED:
            self._services.wake()
        return JSONResponse({"status": str(found)}, CANCEL_STATUS[found])

    async def _authorize(self, request: HttpRequest) -> Caller:
        return await self._services.keyring.authorize(request.headers)

    async def _find(self, caller: Caller, request: HttpRequest) -> JobStatus | None:
        request_id = id_in(request)
        return await self._store.status(caller.key_id, request_id) if request_id else None

    def _watch(self, caller: Caller, request: HttpRequest) -> Watch:
        look = partial(self._find, caller, request)
        tell = partial(told, queue_url=self._queue_url(request))
        return Watch(look, tell, wants_logs(request))

    def _queue_url(self, request: HttpRequest) -> str:
        return orders.queue_url(request, self._public_url)


def id_in(request: HttpRequest) -> str | None:
    """The id in the path, as the store writes it; None when it cannot be one of ours.

    Raises:
        NotFound: the task in the path does not exist.
    """
    task = request.path_params.get("task")
    if task is not None and task not in TASKS:
        raise NotFound
    request_id = str(request.path_params["request_id"])
    return request_id.lower() if ID.fullmatch(request_id) else None


def wants_logs(request: HttpRequest) -> bool:
    """Whether the log is asked for, in any client's way of saying yes."""
    return request.query_params.get("logs", "").lower() in ("1", "true")


def unknown() -> Response:
    """There is no such request, or it is another key's: the answer does not tell which."""
    return refuse(NotFound(UNKNOWN), status=str(Cancellation.NOT_FOUND))
