"""The synchronous run: one POST per task, which answers with the model's output.

The same path with `/stream` answers with the output so far while it is generated.
"""

import time
from functools import partial

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from deployments.api.admission import RequestLimits
from deployments.api.auth import Caller
from deployments.api.body import read_input
from deployments.api.deadline import cancel_on_disconnect, within
from deployments.api.dependencies import Dependencies
from deployments.api.files import PendingFiles
from deployments.api.headers import base_url, files_ttl_s, priority, start_by
from deployments.api.openapi import run_operation, run_stream_operation
from deployments.api.sse import EventStream, output_stream
from deployments.api.usage_meter import UsageMeter
from deployments.florence import identity
from deployments.florence.messages import Finished, Request, Stopwatch
from deployments.florence.partial_parser import OnPartial
from deployments.florence.stages import Stages
from deployments.florence.tasks import TASKS, Task


def router(dependencies: Dependencies, limits: RequestLimits, usage: UsageMeter) -> APIRouter:
    """Two routes per task, with and without a stream."""
    pending = PendingFiles(dependencies.store, dependencies.settings.ingress.deadline_s)
    routes = APIRouter()
    for task in TASKS.values():
        endpoint = RunEndpoint(task, dependencies, pending, limits, usage)
        routes.add_api_route(
            f"/run/{task.endpoint}",
            endpoint.post,
            methods=["POST"],
            name=task.endpoint,
            openapi_extra=run_operation(task),
        )
        routes.add_api_route(
            f"/run/{task.endpoint}/stream",
            endpoint.stream,
            methods=["POST"],
            name=task.endpoint,
            status_code=200,
            response_class=EventStream,
            openapi_extra=run_stream_operation(task),
        )
    return routes


class RunEndpoint:
    def __init__(
        self,
        task: Task,
        dependencies: Dependencies,
        pending: PendingFiles,
        limits: RequestLimits,
        usage: UsageMeter,
    ) -> None:
        self._task = task
        self._dependencies = dependencies
        self._ingress = dependencies.settings.ingress
        self._pending = pending
        self._limits = limits
        self._usage = usage

    async def post(self, request: HttpRequest) -> Response:
        """The output of the task for the body."""
        return render(await self._run(request))

    async def stream(self, request: HttpRequest) -> Response:
        """The output so far as an event, each time it has grown; the last event is all of it."""
        return await output_stream(partial(self._run, request), request.state.request_id)

    async def _run(self, request: HttpRequest, on_partial: OnPartial | None = None) -> Finished:
        event = "stream" if on_partial else "run"
        with self._dependencies.request_span(event, request, self._task) as span:
            async with (
                within(self._ingress.deadline_s),
                self._limits.admit_run(request, span) as caller,
            ):
                watch = Stopwatch()
                run = await self._read(request, caller, span.traceparent)
                span.note(adapter=run.input.adapter)
                in_pipeline = Stopwatch()
                async with self._limits.hold_slot(caller, run.id):
                    self._usage.began(caller.key_id, self._task.path)
                    work = self._dependencies.run(run, on_partial)
                    finished = await cancel_on_disconnect(request, work)
                wait_s = waited_s(in_pipeline.seconds(), finished.stages)
                self._learn(caller, watch.seconds(), wait_s, finished.stages)
            span.note(attempt=finished.attempt, **finished.stages.logged())
            return finished

    async def _read(self, request: HttpRequest, caller: Caller, trace: str) -> Request:
        now = time.time()
        begins_by = start_by(request.headers, now)
        ttl_s = files_ttl_s(request.headers)
        given = await read_input(request, self._task, caller, self._dependencies)
        return Request(
            id=request.state.request_id,
            task=self._task.path,
            input=given,
            key_id=caller.key_id,
            deadline=now + self._ingress.deadline_s,
            start_by=begins_by,
            priority=priority(request.headers),
            base_url=base_url(request, self._ingress.public_url),
            files_ttl_s=ttl_s,
            picture_key=await self._pending.key(),
            trace=trace,
        )

    def _learn(self, caller: Caller, seconds: float, wait_s: float, stages: Stages) -> None:
        self._limits.observe(seconds, wait_s, stages.model_s)
        self._usage.finished(caller.key_id, self._task.path, stages.own_model_s)
        recorder, endpoint = self._dependencies.recorder, self._task.endpoint
        recorder.record("florence_ingress_run_seconds", seconds, endpoint=endpoint)
        stages.record(recorder)


def waited_s(seconds: float, stages: Stages) -> float:
    """Of `seconds` in the pipeline, those in which no deployment worked on the request."""
    return max(0.0, seconds - stages.worked_s)


def render(finished: Finished) -> Response:
    """The output as it is, where the time went, whether the image was known, who answered."""
    headers = {
        "Server-Timing": timing(finished.stages),
        "X-Florence-Image-Cache": "hit" if finished.stages.image_hits else "miss",
        **identity.headers(finished.model),
    }
    return JSONResponse(finished.output, headers=headers)


def timing(stages: Stages) -> str:
    timings = [f"{name};dur={value * 1000:.1f}" for name, value in stages.timings().items()]
    written = [f"tokens;desc={stages.num_tokens}", *["truncated"] * stages.truncated]
    return ", ".join([*timings, *written])
