"""The synchronous run: one POST per task, which answers with the model's output.

Below it, at `/stream`, the output is told while it is written: fal's clients can ask for either.
"""

import time
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from deployments.api import headers as orders
from deployments.api.adaptive_limit import Window
from deployments.api.admission import Admission
from deployments.api.auth import Caller
from deployments.api.body import read_input
from deployments.api.deadline import attended, within
from deployments.api.dependencies import Services, Tell
from deployments.api.lifecycle import files_ttl_s
from deployments.api.limits import Limits
from deployments.api.operations import run_operation, run_stream_operation
from deployments.api.pending import Promises
from deployments.api.request_span import visit
from deployments.api.retry_after import Drain
from deployments.api.run_stream import OutputStream
from deployments.api.usage import Meter
from deployments.florence.request import Finished, Request, Stages, Stopwatch
from deployments.florence.tasks import TASKS, Task
from deployments.telemetry.metrics import Recorder
from deployments.telemetry.request_span import RequestSpan


def router(services: Services, limits: Limits, meter: Meter, drain: Drain) -> APIRouter:
    """One route per task; all share the places for runs."""
    num_slots = services.settings.inference.max_batch_size
    window = Window(services.settings.ingress.max_running, least=2 * num_slots)
    admission = Admission(window, services.recorder, drain)
    promises = Promises(services.store, services.settings.ingress.deadline_s)
    routes = APIRouter()
    for task in TASKS.values():
        endpoint = Endpoint(task, services, promises, admission, limits, meter, drain)
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
            response_class=OutputStream,
            openapi_extra=run_stream_operation(task),
        )
    return routes


class Endpoint:
    """The run of one task."""

    def __init__(
        self,
        task: Task,
        services: Services,
        promises: Promises,
        admission: Admission,
        limits: Limits,
        meter: Meter,
        drain: Drain,
    ) -> None:
        self._task = task
        self._services = services
        self._ingress = services.settings.ingress
        self._promises = promises
        self._admission = admission
        self._limits = limits
        self._meter = meter
        self._drain = drain

    async def post(self, request: HttpRequest) -> Response:
        """Run the task on the image of the body, and answer with its output."""
        return render(await self._answer(request))

    async def stream(self, request: HttpRequest) -> Response:
        """The same as events: the output so far each time it has grown, at last all of it."""
        work = partial(self._answer, request)
        return await OutputStream.begin(work, request.state.request_id)

    async def _answer(self, request: HttpRequest, tell: Tell | None = None) -> Finished:
        event = "stream" if tell else "run"
        with (
            visit(event, request, self._task, self._services.tracer) as work,
            self._services.closing.inside(),
        ):
            finished = await self._work(request, work, tell)
            work.note(attempt=finished.attempt, **finished.stages.measured())
            return finished

    async def _work(self, request: HttpRequest, work: RequestSpan, tell: Tell | None) -> Finished:
        caller = await self._services.keyring.authorize(request.headers)
        work.set_key(caller.key_id)
        await self._limits.admit(caller)
        watch = Stopwatch()
        with self._admission.admit(caller.key_id):
            async with within(self._ingress.deadline_s):
                run = replace(await self._parse(request, caller), trace=work.traceparent)
                in_pipeline = Stopwatch()
                finished = await self._run(request, run, caller, tell)
            wait_s = waited_s(in_pipeline.seconds(), finished.stages)
            self._admission.ended(wait_s, finished.stages.model_s)
        self._note(caller, watch.seconds(), finished.stages)
        return finished

    async def _run(
        self, request: HttpRequest, run: Request, caller: Caller, tell: Tell | None
    ) -> Finished:
        async with self._limits.place(caller, run.id):
            self._meter.began(caller.key_id, self._task.path)
            work = self._services.stream(run, tell) if tell else self._services.run(run)
            return await attended(request, work)

    async def _parse(self, request: HttpRequest, caller: Caller) -> Request:
        now = time.time()
        start_by = orders.start_by(request.headers, now)
        ttl_s = files_ttl_s(request.headers)
        given = await read_input(
            request, self._task.input, self._ingress.max_body_bytes, self._services.num_beams
        )
        return Request(
            id=request.state.request_id,
            task=self._task.path,
            image_url=given.image_url,
            key_id=caller.key_id,
            deadline=now + self._ingress.deadline_s,
            start_by=start_by,
            priority=orders.priority(request.headers),
            base_url=orders.base_url(request, self._ingress.public_url),
            files_ttl_s=ttl_s,
            num_beams=given.num_beams,
            picture_key=await self._promises.key(),
        )

    def _note(self, caller: Caller, seconds: float, stages: Stages) -> None:
        self._drain.observe(seconds)
        share_s = stages.model_s * stages.batch_share
        self._meter.answered(caller.key_id, self._task.path, share_s)
        record(self._services.recorder, self._task.endpoint, seconds, stages)


def waited_s(seconds: float, stages: Stages) -> float:
    """What of the time in the pipeline no box worked on the run."""
    worked_s = stages.fetch_s + stages.decode_s + stages.model_s + stages.postprocess_s
    return max(0.0, seconds - worked_s)


def render(finished: Finished) -> Response:
    """The output as it is, and where the time went."""
    return JSONResponse(finished.output, headers={"Server-Timing": timing(finished.stages)})


def timing(stages: Stages) -> str:
    """The stages in the words of the Server-Timing header, in milliseconds."""
    seconds = {
        "fetch": stages.fetch_s,
        "decode": stages.decode_s,
        "queue": stages.queue_wait_s,
        "model": stages.model_s,
        "postprocess": stages.postprocess_s,
    }
    return ", ".join(f"{name};dur={value * 1000:.1f}" for name, value in seconds.items())


def record(recorder: Recorder, endpoint: str, seconds: float, stages: Stages) -> None:
    """Measure a run that succeeded, and each of its stages."""
    recorder.record("florence_ingress_run_seconds", seconds, endpoint=endpoint)
    recorder.record("florence_preprocess_fetch_seconds", stages.fetch_s)
    recorder.record("florence_preprocess_decode_seconds", stages.decode_s)
    recorder.record("florence_inference_queue_wait_seconds", stages.queue_wait_s)
    recorder.record("florence_inference_model_seconds", stages.model_s)
    recorder.record("florence_inference_batch_size", stages.batch_size)
    recorder.record("florence_inference_batches_total", stages.batch_share)
    recorder.record("florence_inference_tokens", stages.num_tokens)
    recorder.record("florence_inference_written_tokens_total", stages.num_tokens)
    recorder.record("florence_postprocess_seconds", stages.postprocess_s)
