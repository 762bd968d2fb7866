"""The Dispatcher deployment: runs queued jobs through the pipeline, and maintains the store.

All its work is done by background tasks. If one fails, the health check fails, Serve replaces the
replica, and the leases of its jobs expire.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

from deployments.autoscaling import (
    MAX_COUNTED,
    ONGOING,
    POLL_INTERVAL_S,
    BacklogReading,
    publish,
)
from deployments.errors import InternalError
from deployments.files.open import open_file_store
from deployments.florence.checkpoint import image_size
from deployments.jobs.executor import JobExecutor
from deployments.jobs.instrumented import InstrumentedStore
from deployments.jobs.maintenance import Maintenance, every
from deployments.jobs.open import replica_store
from deployments.jobs.queue_metrics import INTERVAL_S as METRICS_INTERVAL_S
from deployments.jobs.queue_metrics import QueueMetrics
from deployments.jobs.readiness import Readiness
from deployments.jobs.store import Store
from deployments.jobs.worker import Worker
from deployments.net.guarded_client import Poster
from deployments.pipeline import Pipeline
from deployments.settings import Settings
from deployments.telemetry.log import logger
from deployments.telemetry.metrics import RayRecorder, Recorder
from deployments.telemetry.process_metrics import ProcessMetrics
from deployments.telemetry.tracing import Tracer, open_tracer
from deployments.webhooks.delivery import WebhookSender
from deployments.webhooks.signing import SigningKeys

MAINTENANCE_INTERVAL_S = 2.0


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
        publish: Callable[[BacklogReading], None] = publish,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._publish = publish
        recorder = recorder or RayRecorder()
        store = store or replica_store(settings.store, settings.queue)
        self._store = InstrumentedStore(store, recorder)
        self._tracer = tracer or open_tracer(settings.tracing, "Dispatcher")
        self._process_metrics = ProcessMetrics(recorder, "Dispatcher")
        pipeline = Pipeline.between(
            preprocess,
            inference,
            postprocess,
            image_size(settings.model),
            recorder=recorder,
            max_attempts=1,  # the store counts attempts, so that all workers see them
        )
        self._worker = Worker(
            self._store,
            JobExecutor(pipeline.run, settings.ingress.deadline_s, self._tracer).execute,
            Readiness(pipeline.ready),
            settings.queue,
            recorder,
            name=f"dispatcher-{uuid4()}",
        )
        maintenance = Maintenance(self._store, open_file_store(settings.files).remove, recorder)
        sender = WebhookSender(
            self._store,
            SigningKeys(settings.webhooks, self._store),
            Poster(settings.webhooks).post,
            settings.webhooks,
            recorder,
            tracer=self._tracer,
        )
        metrics = QueueMetrics(self._store, recorder)
        work: dict[str, Coroutine[Any, Any, None]] = {
            "claim": self._worker.claim_forever(),
            "heartbeat": every(settings.queue.beat_s, self._worker.heartbeat),
            "rescue": every(MAINTENANCE_INTERVAL_S, maintenance.rescue),
            "prune": every(MAINTENANCE_INTERVAL_S, maintenance.prune),
            "webhooks": sender.deliver_forever(),
            "backlog": every(POLL_INTERVAL_S, self._publish_backlog),
            "metrics": every(METRICS_INTERVAL_S, metrics.update),
        }
        self.tasks = {name: asyncio.create_task(each, name=name) for name, each in work.items()}

    async def wake(self) -> None:
        """The queue has changed."""
        self._worker.wake()

    async def ready(self) -> bool:
        """Whether the store answers.

        Raises:
            StoreUnavailable: it does not.
        """
        await self._store.now()
        return True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve calls this for the autoscaling policy."""
        return {ONGOING: self._worker.num_running}

    def check_health(self) -> None:
        """Serve calls this.

        Raises:
            InternalError: a background task has failed.
        """
        for name, task in self.tasks.items():
            if task.done() and not task.cancelled():
                logger.error("the background task %s failed", name, exc_info=task.exception())
                raise InternalError(f"The background task {name} failed.")

    async def stop(self) -> None:
        """Claim no more, wait up to `queue.drain_s` for running jobs, requeue the others."""
        self.tasks["claim"].cancel()
        await self._worker.drain(self._settings.queue.drain_s)
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await asyncio.to_thread(self._tracer.close)

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve calls this when it stops a replica, and awaits the result."""
        tasks = getattr(self, "tasks", None)  # missing when __init__ has failed
        return self.stop() if tasks and not tasks["claim"].done() else None

    async def _publish_backlog(self) -> None:
        backlog = await self._store.backlog(MAX_COUNTED)
        reading = BacklogReading(backlog.queued, backlog.oldest_s)
        await asyncio.to_thread(self._publish, reading)
