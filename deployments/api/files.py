"""Pictures to download: no key, because their names cannot be guessed."""

import asyncio
import re
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from deployments.api.deadline import attended
from deployments.api.dependencies import Services
from deployments.api.pending import Promises
from deployments.api.reading import add_reading
from deployments.errors import Headers, NotFound, RangeNotSatisfiable
from deployments.files.base import FileStore, StoredFile, is_served
from deployments.files.pending import wait_for_file

CHUNK_BYTES = 1024 * 1024
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
MAX_AGE_S = 365 * 24 * 3600  # as much as RFC 9111's readers make sense of
MAX_WAITING = 64  # downloads in one replica: whoever has the name of a lost picture may ask often
GONE = "There is no file of this name, or it has expired."


def router(services: Services) -> APIRouter:
    """`/cdn/files/{name}`."""
    routes = APIRouter()
    promises = Promises(services.store, services.settings.ingress.deadline_s)
    add_reading(routes, "/cdn/files/{name}", Files(services.files, promises).get, "files")
    return routes


class Files:
    """The file store over HTTP."""

    def __init__(self, store: FileStore, promises: Promises) -> None:
        self._store = store
        self._promises = promises
        self._num_waiting = 0

    async def get(self, request: HttpRequest, name: str) -> Response:
        """One file, or a single range of it; a picture that is still being drawn is waited for."""
        file = await asyncio.to_thread(self._store.find, name)
        if file is None and is_served(name) and await self._promises.hold(name):
            file = await self._wait(request, name)
        if file is None:
            raise NotFound(GONE)
        if request.method == "HEAD":
            return Response(headers=describe(file) | {"Content-Length": str(file.size)})
        return await self._send(file, asked_range(request, file))

    async def _wait(self, request: HttpRequest, name: str) -> StoredFile | None:
        if self._num_waiting >= MAX_WAITING:
            return None
        self._num_waiting += 1
        try:
            return await attended(request, wait_for_file(self._store, name))
        finally:
            self._num_waiting -= 1

    async def _send(self, file: StoredFile, asked: range | None) -> Response:
        span = range(file.size) if asked is None else asked
        headers = describe(file) | {"Content-Length": str(len(span))}
        if asked is not None:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{file.size}"
        pieces = self._pieces(file, span)
        first = await opened(pieces)
        body = chain(first, pieces)
        return StreamingResponse(body, 200 if asked is None else 206, headers)

    async def _pieces(self, file: StoredFile, span: range) -> AsyncIterator[bytes]:
        for start in range(span.start, span.stop, CHUNK_BYTES):
            size = min(CHUNK_BYTES, span.stop - start)
            yield await asyncio.to_thread(self._store.read, file, start, size)


async def opened(pieces: AsyncIterator[bytes]) -> bytes:
    """The first piece, read while a 404 can still be sent."""
    try:
        return await anext(pieces, b"")
    except FileNotFoundError:
        raise NotFound(GONE) from None


async def chain(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`first`, then the `others`."""
    yield first
    async for piece in others:
        yield piece


def describe(file: StoredFile) -> Headers:
    """The headers that a file has, whole or in part."""
    kind = "inline" if file.content_type.startswith("image/") else "attachment"
    max_age_s = max(0, int(min(file.expires_at - time.time(), MAX_AGE_S)))
    return {
        "Content-Type": file.content_type,
        "Content-Disposition": f'{kind}; filename="{file.name}"',
        "Cache-Control": f"public, max-age={max_age_s}, immutable",
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
        "ETag": tag(file),
    }


def tag(file: StoredFile) -> str:
    """A file never changes under its name, so the name is its version."""
    return f'"{file.name}"'


def asked_range(request: HttpRequest, file: StoredFile) -> range | None:
    """The bytes that the client asks for; None for all of them.

    What is no single range of bytes is ignored, as RFC 9110 wants it.

    Raises:
        RangeNotSatisfiable: the file has none of these bytes.
    """
    match = RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or match.groups() == ("", ""):
        return None
    if request.headers.get("if-range", tag(file)) != tag(file):
        return None
    return span_of(match[1], match[2], file.size)


def span_of(first: str, last: str, size: int) -> range | None:
    """The bytes from `first` to `last`, or the `last` bytes when `first` is empty."""
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise RangeNotSatisfiable.of(size)
    return range(start, stop)
