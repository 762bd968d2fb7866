"""What probes, scrapers and the curious read: nothing here needs a key."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from deployments.api.dependencies import Services
from deployments.api.reading import add_reading
from deployments.errors import NotReady
from deployments.florence.tasks import TASKS
from deployments.jobs.metrics import Readings

READY_TIMEOUT_S = 5.0


def router(services: Services) -> APIRouter:
    """`/`, `/health`, `/ready` and `/metrics`."""
    health = Health(services)
    routes = APIRouter()
    add_reading(routes, "/", health.index, "index")
    add_reading(routes, "/health", health.health, "health")
    add_reading(routes, "/ready", health.ready, "ready")
    add_reading(routes, "/metrics", health.metrics, "metrics")
    return routes


class Health:
    """How the service is."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._readings = Readings(services.store, services.recorder)

    async def index(self) -> Response:
        """What is served here."""
        return JSONResponse(
            {
                "name": "Florence Serve",
                "endpoints": [f"/{task.endpoint}" for task in TASKS.values()],
                "openapi": "/openapi.json",
                "health": "/health",
                "ready": "/ready",
                "metrics": "/metrics",
            }
        )

    async def health(self) -> Response:
        """This process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self) -> Response:
        """A run would find every part of the pipeline."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                ready = await self._services.ready()
        except TimeoutError:
            ready = False
        if not ready:
            raise NotReady
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Every metric of this process and of the queue, in Prometheus' text format."""
        await self._readings.refresh()
        body = self._services.recorder.exposition()
        return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})
