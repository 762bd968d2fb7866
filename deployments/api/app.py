"""The whole HTTP application: every route behind one envelope."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from deployments.api import files, health, jwks, openapi, runs, uploads
from deployments.api import queue as queued
from deployments.api.dependencies import Services
from deployments.api.envelope import Envelope
from deployments.api.error_responses import refuse_route
from deployments.api.limits import Limits
from deployments.api.retry_after import Drain
from deployments.api.usage import Meter


def create_app(services: Services) -> FastAPI:
    """fal's protocol over `services`."""
    drain = Drain()
    limits = Limits(services.store, services.settings, drain, services.recorder)
    meter = Meter(services.store, services.recorder)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with meter.running():
            yield
        await asyncio.to_thread(services.tracer.close)

    app = FastAPI(
        title=openapi.TITLE,
        version=openapi.VERSION,
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    for paid in (runs, queued):
        app.include_router(paid.router(services, limits, meter, drain))
    for group in (files, uploads, health, jwks, openapi):
        app.include_router(group.router(services))
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_middleware(Envelope, services=services)
    return app
