"""The Dispatcher deployment: takes jobs from the queue through the pipeline to their end.

Its loops claim, keep leases, rescue, forget, deliver webhooks, and read how much waits. One that
dies takes the replica with it: Serve then starts another, and the leases of this one run out.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

from deployments.autoscaling import LOOK_EVERY_S, MOST, ONGOING, Reading, publish
from deployments.errors import InternalError, StoreUnavailable
from deployments.files.open import open_file_store
from deployments.florence.checkpoint import image_size
from deployments.florence.request import Finished, Request
from deployments.florence.tasks import TASKS
from deployments.jobs.instrumented import measured
from deployments.jobs.job import Job, JobOutcome, LogLine
from deployments.jobs.maintenance import Keeper
from deployments.jobs.metrics import Readings
from deployments.jobs.readiness import Gate
from deployments.jobs.sqlite.owner import store_of
from deployments.jobs.store import Store
from deployments.jobs.worker import Worker
from deployments.net.client import Poster
from deployments.pipeline import Pipeline
from deployments.settings import Settings
from deployments.telemetry.log import logger
from deployments.telemetry.metrics import RayRecorder, Recorder
from deployments.telemetry.process_metrics import ProcessMetrics
from deployments.telemetry.request_span import RequestSpan, request_span
from deployments.telemetry.tracing import Tracer, open_tracer
from deployments.webhooks.delivery import WebhookSender
from deployments.webhooks.signing import SigningKeys


class Dispatcher:
    """One replica. Several share the queue."""

    def __init__(
        self,
        settings: Settings,
        preprocess: Any,
        inference: Any,
        postprocess: Any,
        store: Store | None = None,
        recorder: Recorder | None = None,
        publish: Callable[[Reading], None] = publish,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._publish = publish
        recorder = recorder or RayRecorder()
        self._store = measured(store or store_of(settings.store, settings.queue), recorder)
        self._files = open_file_store(settings.files)
        self._tracer = tracer or open_tracer(settings.tracing, "Dispatcher")
        # One attempt here is one attempt in the store: a death counts where all workers see it.
        self._pipeline = Pipeline.between(
            preprocess,
            inference,
            postprocess,
            image_size(settings.model),
            recorder=recorder,
            max_attempts=1,
        )
        self._gate = Gate(self._pipeline.ready)
        name = f"dispatcher-{uuid4()}"
        self._worker = Worker(
            self._store, self._execute, settings.queue, recorder, name, self._gate
        )
        self._keeper = Keeper(self._store, self._remove, recorder)
        sender = WebhookSender(
            self._store,
            SigningKeys(settings.webhooks, self._store),
            Poster(settings.webhooks).post,
            settings.webhooks,
            recorder,
            tracer=self._tracer,
        )
        self._metrics = ProcessMetrics(recorder, "Dispatcher")
        readings = Readings(self._store, recorder)
        self._claiming = loop("claim", self._worker.claim_forever())
        self.loops = [
            self._claiming,
            loop("beat", self._worker.beat_forever()),
            loop("rescue", self._keeper.rescue_forever()),
            loop("prune", self._keeper.prune_forever()),
            loop("deliver", sender.deliver_forever()),
            loop("read", self._read_forever()),
            loop("measure", readings.read_forever()),
        ]

    async def wake(self) -> None:
        """The queue has changed."""
        self._worker.wake()

    async def ready(self) -> bool:
        """Whether this deployment can work."""
        await self._store.now()
        return True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks this, for the policy that counts replicas."""
        return {ONGOING: self._worker.num_running}

    def check_health(self) -> None:
        """Serve asks this.

        Raises:
            InternalError: a loop has died.
        """
        for task in self.loops:
            if task.done() and not task.cancelled():
                logger.error("the loop %s died", task.get_name(), exc_info=task.exception())
                raise InternalError(f"The loop {task.get_name()} died.")

    async def stop(self) -> None:
        """Claim no more, let what runs end for a while, hand the rest back to the queue."""
        self._claiming.cancel()
        await self._worker.drain(self._settings.queue.drain_s)
        for task in self.loops:
            task.cancel()
        await asyncio.gather(*self.loops, return_exceptions=True)
        await asyncio.to_thread(self._tracer.close)

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve calls this when it stops a replica, and awaits what it gets."""
        claiming = getattr(self, "_claiming", None)  # missing when __init__ has failed
        return self.stop() if claiming and not claiming.done() else None

    async def _execute(self, claimed: Job) -> JobOutcome:
        if claimed.attempt == 1:
            self._tracer.past("queue", claimed.trace, claimed.waited_s)
        with executing(self._tracer, claimed) as work:
            finished = await self._pipeline.run(
                replace(self._request_of(claimed), trace=work.traceparent)
            )
            work.note(**finished.stages.logged())
        self._gate.note()
        return ending_of(finished)

    def _request_of(self, claimed: Job) -> Request:
        return Request(
            id=claimed.lease.id,
            task=claimed.path,
            input=TASKS[claimed.path].input.model_validate_json(claimed.input),
            key_id=claimed.key_id,
            deadline=time.time() + self._settings.ingress.deadline_s,
            priority=claimed.priority,
            base_url=claimed.base_url,
            files_ttl_s=claimed.files_ttl_s,
        )

    async def _remove(self, files: Sequence[str]) -> None:
        for name in files:
            await asyncio.to_thread(self._files.remove, name)

    async def _read_forever(self) -> None:
        """Tell the policies what waits; while the store is away, that they hear nothing tells."""
        while True:
            with suppress(StoreUnavailable):
                backlog = await self._store.backlog(MOST)
                reading = Reading(backlog.queued, backlog.oldest_s)
                await asyncio.to_thread(self._publish, reading)
            await asyncio.sleep(LOOK_EVERY_S)


def loop(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """A task that is to run as long as the replica."""
    return asyncio.create_task(work, name=name)


def executing(tracer: Tracer, claimed: Job) -> AbstractContextManager[RequestSpan]:
    """Keep the account of one attempt at a request, in the trace of its submit."""
    return request_span(
        tracer,
        "execute",
        claimed.trace,
        "consumer",
        request_id=claimed.lease.id,
        endpoint=claimed.path,
        key_id=claimed.key_id,
        attempt=claimed.attempt,
        waited_ms=round(claimed.waited_s * 1000, 3),
    )


def ending_of(finished: Finished) -> JobOutcome:
    """How a request with this answer ends."""
    return JobOutcome.done(
        finished.output,
        inference_s=round(finished.stages.model_s, 6),
        model_s=finished.stages.own_model_s,
        files=finished.files,
        logs=tuple(LogLine(line, age_s=ago_s) for line, ago_s in finished.stages.lines()),
    )
