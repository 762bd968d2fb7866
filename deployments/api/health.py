"""Routes without a key: health, readiness, metrics and the keys that verify webhooks."""

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from deployments.api.dependencies import Dependencies
from deployments.api.openapi import add_get
from deployments.errors import NotReady
from deployments.florence.identity import DEMO, DEMO_NOTE
from deployments.florence.tasks import TASKS
from deployments.jobs.queue_metrics import QueueMetrics
from deployments.webhooks.signing import jwks, published_keys

READY_TIMEOUT_S = 5.0
JWKS_PATHS = ("/.well-known/jwks.json", "/rest/.well-known/jwks.json")  # the second is fal's own
JWKS_MAX_AGE_S = 600


def router(dependencies: Dependencies) -> APIRouter:
    """`/health`, `/ready`, `/metrics` and `/.well-known/jwks.json`."""
    health = Health(dependencies)
    routes = APIRouter()
    add_get(routes, "/health", health.health, "health")
    add_get(routes, "/ready", health.ready, "ready")
    add_get(routes, "/metrics", health.metrics, "metrics")
    for path in JWKS_PATHS:
        add_get(routes, path, health.jwks, "jwks")
    return routes


def index(dependencies: Dependencies) -> dict[str, Any]:
    """What is served here, for programs."""
    model = dependencies.model
    return {
        "name": "Florence Serve",
        "model": model,
        **({"note": DEMO_NOTE} if model == DEMO else {}),
        "endpoints": [f"/{task.endpoint}" for task in TASKS.values()],
        "openapi": "/openapi.json",
        "health": "/health",
        "ready": "/ready",
        "metrics": "/metrics",
    }


class Health:
    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._queue_metrics = QueueMetrics(dependencies.store, dependencies.recorder)

    async def health(self) -> Response:
        """This process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self) -> Response:
        """A run would find every part of the pipeline."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                ready = await self._dependencies.ready()
        except TimeoutError:
            ready = False
        if not ready:
            raise NotReady
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Every metric of this process and of the queue, in Prometheus' text format."""
        await self._queue_metrics.refresh()
        body = self._dependencies.recorder.exposition()
        return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

    async def jwks(self) -> Response:
        """The public keys that verify webhooks, as a JSON Web Key Set."""
        span_s = self._dependencies.settings.webhooks.span_s
        keys = await published_keys(self._dependencies.store, span_s)
        # Before a first start has made its keys, there is nothing to cache.
        caching = f"public, max-age={JWKS_MAX_AGE_S}" if keys else "no-store"
        return JSONResponse(jwks(keys), headers={"Cache-Control": caching})
