"""The Ingress deployment: fal's HTTP protocol in front of the pipeline; it runs no model."""

import asyncio
from contextlib import suppress
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.api.admission import Shutdown
from deployments.api.app import create_app
from deployments.api.auth import Keyring
from deployments.api.dependencies import Dependencies
from deployments.errors import ServiceError
from deployments.files.write_probe import open_writable_store
from deployments.florence.checkpoint import open_checkpoint
from deployments.florence.identity import name_of
from deployments.florence.prompts import Prompts
from deployments.jobs.instrumented import InstrumentedStore
from deployments.jobs.open import replica_store
from deployments.jobs.worker import WakeUp
from deployments.pipeline import Pipeline
from deployments.settings import Settings
from deployments.telemetry.metrics import RayRecorder, SharedRecorder
from deployments.telemetry.process_metrics import ProcessMetrics
from deployments.telemetry.tracing import open_tracer

READY_TIMEOUT_S = 4.0


@serve.ingress()
class Ingress:
    """One replica: an ASGI application around the other deployments and the store."""

    def __init__(
        self,
        settings: Settings,
        preprocess: DeploymentHandle[Any],
        inference: DeploymentHandle[Any],
        postprocess: DeploymentHandle[Any],
        dispatcher: DeploymentHandle[Any],
    ) -> None:
        self._settings = settings
        self._shutdown = Shutdown()
        self._recorder = SharedRecorder(RayRecorder())
        self._metrics = ProcessMetrics(self._recorder, "Ingress")
        store = replica_store(settings.store, settings.queue, settings.store.patience_s)
        self._store = InstrumentedStore(store, self._recorder)
        self._tracer = open_tracer(settings.tracing, "Ingress")
        self._dispatcher = dispatcher
        self._wake_up = WakeUp(dispatcher.wake.remote)
        self._checkpoint = open_checkpoint(settings.model)
        self._pipeline = Pipeline.between(
            preprocess,
            inference,
            postprocess,
            self._checkpoint.image_size,
            recorder=self._recorder,
            max_attempts=settings.ingress.max_attempts,
            vocabulary=self._checkpoint.vocabulary,
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Serve calls this once in each replica."""
        return create_app(
            Dependencies(
                settings=self._settings,
                bounds=self._checkpoint.bounds(self._settings.inference),
                model=name_of(self._checkpoint),
                prompts=Prompts(self._checkpoint, self._settings.inference),
                run=self._pipeline.run,
                ready=self._ready,
                wake=self._wake_up,
                files=open_writable_store(self._settings.files),
                store=self._store,
                keyring=Keyring(self._settings.keys, self._store),
                recorder=self._recorder,
                tracer=self._tracer,
                shutdown=self._shutdown,
            )
        )

    async def drain(self, timeout_s: float) -> None:
        """Begin no new request, and return when all have their answer, or after `timeout_s`."""
        await self._shutdown.drain(timeout_s)

    async def _ready(self) -> bool:
        """Whether the pipeline and the queue answer now."""
        with suppress(TimeoutError, RayError, RayServeException, ServiceError):
            async with asyncio.timeout(READY_TIMEOUT_S):
                queue = await self._dispatcher.ready.remote()
                return bool(queue) and await self._pipeline.ready()
        return False
