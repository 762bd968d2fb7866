"""The Ingress box: fal's HTTP protocol in front of the pipeline. Runs no model, opens no image."""

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.api.app import create_app
from deployments.api.services import Services
from deployments.images.storage import LocalFileStore
from deployments.metrics import PrometheusRecorder
from deployments.pipeline import Box, Pipeline
from deployments.settings import Settings


@serve.ingress()
class Ingress:
    """One replica: an ASGI application around the three handles of the pipeline."""

    def __init__(
        self,
        settings: Settings,
        preprocess: DeploymentHandle[Any],
        inference: DeploymentHandle[Any],
        postprocess: DeploymentHandle[Any],
    ) -> None:
        self._settings = settings
        self._recorder = PrometheusRecorder()
        self._pipeline = Pipeline(
            box(preprocess),
            box(inference),
            box(postprocess),
            self._recorder,
            settings.ingress.max_attempts,
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Serve calls this once in each replica."""
        return create_app(
            Services(
                settings=self._settings,
                run=self._pipeline.run,
                ready=self._pipeline.ready,
                files=LocalFileStore(self._settings.files),
                recorder=self._recorder,
            )
        )


def box(handle: DeploymentHandle[Any]) -> Box:
    """A neighbour behind a handle."""
    return Box(run=handle.run.remote, ready=handle.ready.remote)
