"""Files to download: no key, because their names cannot be guessed.

An answer names its picture while that is still being drawn. A download waits for such a pending
file and for no other: a name that was made up gets its 404 at once. Ingress replicas share no
memory, so the name itself shows that it is pending: it is made with a key that each replica derives
from a secret in the store and the time. A list of pending files would cost a file or a call each;
a creation time in the name could be forged, and strangers would use up the waiting downloads.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from deployments.api.auth import UrlSigner
from deployments.api.deadline import cancel_on_disconnect
from deployments.api.dependencies import Dependencies
from deployments.api.openapi import add_get
from deployments.errors import Headers, NotFound, RangeNotSatisfiable, StoreUnavailable
from deployments.files.base import FileStore, StoredFile, is_served
from deployments.files.pending_pictures import is_pending, wait_for_file
from deployments.jobs.store import KeyStore

CHUNK_BYTES = 1024 * 1024
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
MAX_AGE_S = 365 * 24 * 3600  # a year: no cache keeps a file longer
MAX_WAITING = 64  # downloads in one replica: a caller may ask often for a picture that was lost
MARGIN_S = 60.0  # a download waits for less, and the clocks of a cluster differ by less
STORE_TIMEOUT_S = 1.0
GONE = "There is no file of this name, or it has expired."


def router(dependencies: Dependencies) -> APIRouter:
    """`/cdn/files/{name}`."""
    routes = APIRouter()
    pending = PendingFiles(dependencies.store, dependencies.settings.ingress.deadline_s)
    add_get(routes, "/cdn/files/{name}", Downloads(dependencies.files, pending).get, "files")
    return routes


class PendingFiles:
    """Keys to name pending files with; each is good for at least `max_run_s` and a margin."""

    def __init__(self, store: KeyStore, max_run_s: float) -> None:
        self._signer = UrlSigner(store)
        self._period_s = max_run_s + MARGIN_S

    async def key(self) -> str:
        """The key of this period; empty while the store is away, and then nothing is pending."""
        return await self._key(self._period())

    async def includes(self, name: str) -> bool:
        """Whether `name` was made with the key of this period or the last."""
        period = self._period()
        keys = [await self._key(period), await self._key(period - 1)]
        return any(key and is_pending(name, key) for key in keys)

    def _period(self) -> int:
        return int(time.time() // self._period_s)

    async def _key(self, period: int) -> str:
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await self._signer.digest(f"pictures {period}")
        return ""


class Downloads:
    """The file store over HTTP."""

    def __init__(self, store: FileStore, pending: PendingFiles) -> None:
        self._store = store
        self._pending = pending
        self._num_waiting = 0

    async def get(self, request: HttpRequest, name: str) -> Response:
        """One file, or a single range of it; a pending file is waited for."""
        file = await asyncio.to_thread(self._store.find, name)
        if file is None and is_served(name) and await self._pending.includes(name):
            file = await self._wait(request, name)
        if file is None:
            raise NotFound(GONE)
        if request.method == "HEAD":
            return Response(headers=describe(file) | {"Content-Length": str(file.size)})
        return await self._send(file, requested_range(request, file))

    async def _wait(self, request: HttpRequest, name: str) -> StoredFile | None:
        if self._num_waiting >= MAX_WAITING:
            return None
        self._num_waiting += 1
        try:
            return await cancel_on_disconnect(request, wait_for_file(self._store, name))
        finally:
            self._num_waiting -= 1

    async def _send(self, file: StoredFile, requested: range | None) -> Response:
        span = range(file.size) if requested is None else requested
        headers = describe(file) | {"Content-Length": str(len(span))}
        if requested is not None:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{file.size}"
        pieces = self._pieces(file, span)
        first = await opened(pieces)
        body = chain(first, pieces)
        return StreamingResponse(body, 200 if requested is None else 206, headers)

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
    yield first
    async for piece in others:
        yield piece


def describe(file: StoredFile) -> Headers:
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


def requested_range(request: HttpRequest, file: StoredFile) -> range | None:
    """The range of bytes that the client asks for; None for the whole file.

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
