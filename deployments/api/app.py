"""The whole HTTP application: every route behind one envelope."""

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from deployments.api import files, health, openapi, runs
from deployments.api.envelope import Envelope
from deployments.api.refusals import refuse_route
from deployments.api.services import Services


def create_app(services: Services) -> FastAPI:
    """fal's protocol over `services`."""
    app = FastAPI(
        title=openapi.TITLE,
        version=openapi.VERSION,
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    for group in (runs, files, health, openapi):
        app.include_router(group.router(services))
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_middleware(Envelope, services=services)
    return app
