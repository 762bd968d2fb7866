"""The whole HTTP application: every route within one middleware."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from deployments.api import files, health, openapi, playground, queue, reference, runs, uploads
from deployments.api.admission import RequestLimits
from deployments.api.dependencies import Dependencies
from deployments.api.middleware import Envelope
from deployments.api.responses import route_error_response
from deployments.api.usage_meter import UsageMeter


def create_app(dependencies: Dependencies) -> FastAPI:
    """fal's protocol over `dependencies`."""
    limits = RequestLimits(
        dependencies.settings,
        dependencies.store,
        dependencies.keyring,
        dependencies.recorder,
        dependencies.shutdown,
    )
    usage = UsageMeter(dependencies.store, dependencies.recorder)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with usage.running():
            yield
        await asyncio.to_thread(dependencies.tracer.close)

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
    for work in (runs, queue):
        app.include_router(work.router(dependencies, limits, usage))
    for group in (files, uploads, health, openapi, playground, reference):
        app.include_router(group.router(dependencies))
    app.add_exception_handler(HTTPException, route_error_response)
    app.add_middleware(Envelope, dependencies=dependencies)
    return app
