"""Errors on the wire, in fal's shape."""

from typing import Any

from fastapi import Request as HttpRequest
from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from deployments.errors import BadRequest, MethodNotAllowed, NotFound, ServiceError

ROUTE_ERRORS: dict[int, type[ServiceError]] = {404: NotFound, 405: MethodNotAllowed}


class ErrorResponse(BaseModel):
    """Why a request did not reach the model."""

    detail: str = Field(description="A sentence for people")
    error_type: str = Field(description="The error's name for programs")


class Fault(BaseModel):
    """One thing that is wrong with the input."""

    loc: list[str | int] = Field(description="Where it is wrong")
    msg: str = Field(description="A sentence for people")
    type: str = Field(description="The error's name for programs")
    url: str = Field(description="Where to read more")
    ctx: dict[str, Any] = Field({}, description="The numbers behind the sentence")


class InputErrorResponse(BaseModel):
    """What is wrong with the input."""

    detail: list[Fault] = Field(description="One item for each fault")


class FailureResponse(BaseModel):
    """A failure of the service: of the pipeline, or of the model on this one input."""

    detail: str | list[Fault] = Field(description="A sentence for people, or one item per fault")
    error_type: str = Field("", description="The error's name for programs, with a sentence")


def error_response(error: ServiceError, **more: str) -> Response:
    return JSONResponse(more | error.body(), error.status, error.headers())


async def route_error_response(_: HttpRequest, error: Exception) -> Response:
    """The response when the router found no route, or none for this method."""
    response = error_response(ROUTE_ERRORS.get(getattr(error, "status_code", 0), BadRequest)())
    allowed = (getattr(error, "headers", None) or {}).get("Allow")
    if allowed:
        response.headers["Allow"] = allow(allowed)
    return response


def allow(methods: str) -> str:
    """All methods of a route: HEAD comes with GET, and OPTIONS is answered everywhere."""
    names = set(methods.split(", ")) | {"OPTIONS"}
    return ", ".join(sorted(names | ({"HEAD"} if "GET" in names else set())))
