"""Files on their way in: read with a bound, looked at, and handed to the store."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request as HttpRequest
from pydantic import BaseModel, ValidationError

from deployments.api.body import decode, faults, pieces
from deployments.api.deadline import within
from deployments.errors import InputError, InvalidInput, PayloadTooLarge
from deployments.files.base import OPAQUE, FileStore, StoredFile, content_type_of
from deployments.images.decode import sniff
from deployments.settings import FileSettings

MAX_ARRIVING = 64  # each may hold a whole file in memory; the others wait before they are read

Model = TypeVar("Model", bound=BaseModel)


class Arrivals:
    """Takes the bodies of uploads, a bounded number at a time."""

    def __init__(self, files: FileStore, settings: FileSettings) -> None:
        self._files = files
        self._timeout_s = settings.upload_expires_s
        self._places = asyncio.Semaphore(MAX_ARRIVING)

    @asynccontextmanager
    async def body(self, request: HttpRequest, max_bytes: int) -> AsyncIterator[bytes]:
        """The body of `request`, for the time of the `with` block.

        Raises:
            PayloadTooLarge: it has more than `max_bytes`, by its own word or in fact.
            RequestTimeout: it did not come in time.
            ClientDisconnected: the caller hung up within it.
        """
        check_declared(request, max_bytes)
        async with within(self._timeout_s), self._places:
            yield await read(request, max_bytes)

    async def json(self, request: HttpRequest, model: type[Model], max_bytes: int) -> Model:
        """The JSON object in the body.

        Raises:
            InvalidInput: it does not fit `model`.
            PayloadTooLarge, RequestTimeout, ClientDisconnected: as `body`.
        """
        async with self.body(request, max_bytes) as data:
            try:
                return model.model_validate(decode(data) if data else {})
            except ValidationError as error:
                raise InvalidInput.of(faults(error)) from None

    async def create(self, name: str, data: Iterable[bytes]) -> StoredFile:
        """Keep the pieces of `data` under `name`.

        Raises:
            FileExistsError: the name has its file.
            StoreUnavailable: the file store does not answer.
        """
        return await asyncio.to_thread(self._files.create, name, data)


async def read(request: HttpRequest, max_bytes: int) -> bytes:
    """The whole body; stops at the first byte too many."""
    data = bytearray()
    async for piece in pieces(request):
        data += piece
        if len(data) > max_bytes:
            raise too_large(max_bytes)
    return bytes(data)


def check_declared(request: HttpRequest, max_bytes: int) -> None:
    """Refuse a body that says itself that it is too large, before any of it is read."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise too_large(max_bytes)


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"At most {max_bytes} bytes can be stored here.")


def check_image(name: str, start: bytes) -> None:
    """Refuse a file that was promised to be an image and does not begin like one.

    Which image it is does not matter: people rename them, and every reader looks for itself.

    Raises:
        ImageLoadError, UnsupportedImageFormat: it is none that is read.
    """
    if content_type_of(name) == OPAQUE:
        return
    try:
        sniff(start)
    except InputError as error:
        error.loc = ("body",)
        raise


def sniffed(data: bytes) -> str:
    """The content type of an image that is read; anything else is opaque."""
    try:
        return f"image/{sniff(data).lower()}"
    except InputError:
        return OPAQUE
