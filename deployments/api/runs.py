"""The synchronous run: one POST per task, which answers with the model's output."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from deployments.api import orders
from deployments.api.admission import Admission
from deployments.api.body import read_input
from deployments.api.keys import authorize
from deployments.api.openapi import operation
from deployments.api.services import Services
from deployments.errors import ClientDisconnected, RequestTimeout
from deployments.florence.run import Finished, Run, Stages, Stopwatch
from deployments.florence.tasks import TASKS, Task
from deployments.metrics import Recorder


def router(services: Services) -> APIRouter:
    """One route per task; all share the places for runs."""
    admission = Admission(services.settings.ingress.max_running, services.recorder)
    routes = APIRouter()
    for task in TASKS.values():
        routes.add_api_route(
            f"/run/{task.endpoint}",
            Endpoint(task, services, admission).post,
            methods=["POST"],
            name=task.endpoint,
            openapi_extra=operation(task),
        )
    return routes


class Endpoint:
    """The run of one task."""

    def __init__(self, task: Task, services: Services, admission: Admission) -> None:
        self._task = task
        self._services = services
        self._ingress = services.settings.ingress
        self._admission = admission

    async def post(self, request: Request) -> Response:
        """Run the task on the image of the body, and answer with its output."""
        authorize(request.headers, self._services.settings.keys.hashes)
        watch = Stopwatch()
        with self._admission.admit():
            async with within(self._ingress.deadline_s):
                run = await self._parse(request)
                finished = await attended(request, self._services.run(run))
        record(self._services.recorder, self._task.endpoint, watch.seconds(), finished.stages)
        return render(finished)

    async def _parse(self, request: Request) -> Run:
        now = time.time()
        start_by = orders.start_by(request.headers, now)
        given = await read_input(request, self._task.input, self._ingress.max_body_bytes)
        return Run(
            id=request.state.request_id,
            task=self._task.path,
            image_url=given.image_url,
            deadline=now + self._ingress.deadline_s,
            start_by=start_by,
            priority=orders.priority(request.headers),
            base_url=orders.base_url(request, self._ingress.public_url),
        )


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Give the `with` block up after `seconds`.

    Raises:
        RequestTimeout: the time is over.
    """
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if timeout.expired():
            raise RequestTimeout from None
        raise


async def attended(request: Request, work: Awaitable[Finished]) -> Finished:
    """The result of `work`, which is cancelled when the caller hangs up or is given up.

    Raises:
        ClientDisconnected: the caller hung up.
    """
    running = asyncio.ensure_future(work)
    leaving = asyncio.create_task(hang_up(request), name="hang-up")
    try:
        await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        leaving.result()
        raise ClientDisconnected
    finally:
        running.cancel()
        leaving.cancel()
        await asyncio.gather(running, leaving, return_exceptions=True)


async def hang_up(request: Request) -> None:
    """Wait until the caller hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
    recorder.record("florence_postprocess_seconds", stages.postprocess_s)
