"""Bodies: read with a bound, then parsed as JSON or kept as a file."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from fastapi import Request as HttpRequest
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from deployments.api.auth import Caller
from deployments.api.deadline import within
from deployments.api.dependencies import Dependencies
from deployments.api.hints import BODY, hint_of_body
from deployments.errors import (
    ClientDisconnected,
    FileTooLarge,
    InvalidInput,
    PayloadTooLarge,
    ServiceError,
    fault,
)
from deployments.florence.adapters import check_adapter
from deployments.florence.schemas import ImageInput, ImageWithTextInput
from deployments.florence.tasks import Task

# What is smaller is done more quickly than handed to a thread.
THREAD_BYTES = 1024 * 1024  # of a body
THREAD_LETTERS = 1024  # of a text: tokenising takes far longer than parsing
MAX_UPLOADS = 64  # bodies in memory at once, each as large as a file may be

Model = TypeVar("Model", bound=BaseModel)
P = ParamSpec("P")
T = TypeVar("T")


async def read_input(
    request: HttpRequest, task: Task, caller: Caller, dependencies: Dependencies
) -> ImageInput:
    """The input of a task, which this deployment can answer, with the caller's own adapter.

    Raises:
        FileTooLarge: the body has more than `max_body_bytes`, as declared or as counted.
        InvalidInput: the body does not fit the task, or its text the model, or there is no such
            adapter.
        ClientDisconnected: the caller hung up within the body.
    """
    max_bytes = dependencies.settings.ingress.max_body_bytes
    body = await read_bytes(request, max_bytes, FileTooLarge(max_size=max_bytes))
    is_large = len(body) >= THREAD_BYTES
    given = await call(is_large, parse, body, task.input, dependencies.bounds)
    if given.adapter is None and caller.adapter:
        given = given.model_copy(update={"adapter": caller.adapter})
    check_adapter(given.adapter, dependencies.settings.model.adapters)
    is_long = isinstance(given, ImageWithTextInput) and len(given.text_input) >= THREAD_LETTERS
    await call(is_long, dependencies.prompts.check, task, given)
    return given


async def call(in_thread: bool, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """What `work` returns; in a thread, the event loop goes on meanwhile."""
    return await asyncio.to_thread(work, *args, **named) if in_thread else work(*args, **named)


class UploadReader:
    """Reads the bodies of uploads, a bounded number at once."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(MAX_UPLOADS)

    @asynccontextmanager
    async def read(self, request: HttpRequest, max_bytes: int) -> AsyncIterator[bytes]:
        """The body, for the time of the `with` block.

        Raises:
            PayloadTooLarge: the body has more than `max_bytes`, as declared or as counted.
            RequestTimeout: the body did not come in time.
            ClientDisconnected: the caller hung up within the body.
        """
        error = too_large(max_bytes)
        check_declared(request, max_bytes, error)
        async with within(self._timeout_s), self._slots:
            yield bytes(await read_bytes(request, max_bytes, error))

    async def read_json(self, request: HttpRequest, model: type[Model], max_bytes: int) -> Model:
        """The body as a `model`.

        Raises:
            InvalidInput: the body does not fit `model`.
            PayloadTooLarge, RequestTimeout, ClientDisconnected: as `read`.
        """
        async with self.read(request, max_bytes) as data:
            return parse(data, model)


async def read_bytes(request: HttpRequest, max_bytes: int, error: ServiceError) -> bytearray:
    """The whole body; raises `error` at the first byte too many.

    One buffer, because a list of many tiny chunks would take forty times their bytes.
    """
    check_declared(request, max_bytes, error)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise error
    except ClientDisconnect:
        raise ClientDisconnected from None
    return body


def check_declared(request: HttpRequest, max_bytes: int, error: ServiceError) -> None:
    """Raise `error` when Content-Length is more than `max_bytes`."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise error


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"At most {max_bytes} bytes can be stored here.")


def parse(body: bytes | bytearray, model: type[Model], context: Any = None) -> Model:
    """The body as a `model`; an empty body is an object without fields."""
    value = decode(body) if body else {}
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        hint = hint_of_body(value, model, missing(error))
        raise InvalidInput.of(faults(error)).with_hint(hint) from None


def decode(body: bytes | bytearray) -> Any:
    """The JSON value in `body`.

    pydantic's parser instead of the standard library's: it bounds the depth and the length of
    numbers, refuses lone surrogates, and takes half the time for an image in a data URI.
    """
    try:
        return from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        reason = str(error)
        message = f"Invalid JSON: {reason}"
        found = fault("json_invalid", ("body",), message, error=reason)
        raise InvalidInput.of([found]).with_hint(BODY) from None


def missing(error: ValidationError) -> list[str]:
    """The fields that are not there."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [str(each["loc"][0]) for each in found if each["type"] == "missing"]


def faults(error: ValidationError) -> list[dict[str, Any]]:
    """pydantic's findings in fal's shape, without the input: it may be a whole image."""
    return [
        fault(found["type"], ("body", *found["loc"]), found["msg"], **found.get("ctx", {}))
        for found in error.errors(include_url=False, include_input=False)
    ]
