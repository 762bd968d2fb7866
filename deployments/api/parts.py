"""Large files, which come in parts and become one file when the last is there.

    JavaScript: PUT  /cdn/upload/{name}/parts/{n}?ticket=
                POST /cdn/upload/{name}/parts/complete?ticket=
    Python:     PUT  /cdn/files/{name}/multipart/{ticket}/{n}
                POST /cdn/files/{name}/multipart/{ticket}/complete

A part waits in the file store under a name that follows from the upload, its number and its
content, so any replica finds it, a repeated part is the same file, and nobody else can name it.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from deployments.api import headers as orders
from deployments.api.arrivals import Arrivals, check_image, too_large
from deployments.api.dependencies import Services
from deployments.api.signed_urls import Ticket, Tickets
from deployments.errors import BadRequest, NotFound
from deployments.files.base import OPAQUE, FileStore, StoredFile, name_for
from deployments.images.decode import SNIFFED_BYTES
from deployments.settings import MIB

PART_BYTES = 10 * MIB  # what fal's clients cut files into
MAX_PARTS = 10_000
CHUNK_BYTES = MIB
GRACE_S = 600  # parts outlive their ticket, so that none goes while they are joined
MAX_JSON_BYTES = MIB


class Part(BaseModel):
    """A part as its uploader knows it."""

    number: int = Field(alias="partNumber", ge=1, le=MAX_PARTS)
    etag: str = Field(pattern=r'^(W/)?"?[0-9a-f]{64}"?$')

    @property
    def digest(self) -> str:
        """The SHA-256 of its bytes, in hex."""
        return self.etag.removeprefix("W/").strip('"')


class Completion(BaseModel):
    """All parts of a file, in any order."""

    parts: list[Part] = Field(min_length=1, max_length=MAX_PARTS)


def router(services: Services, tickets: Tickets, arrivals: Arrivals) -> APIRouter:
    """The routes of both clients."""
    parts = Parts(services, tickets, arrivals)
    routes = APIRouter()
    for path in ("/cdn/upload/{name}/parts", "/cdn/files/{name}/multipart/{ticket}"):
        routes.add_api_route(f"{path}/{{number}}", parts.put, methods=["PUT"], name="upload-part")
        routes.add_api_route(
            f"{path}/complete", parts.complete, methods=["POST"], name="upload-complete"
        )
    return routes


class Parts:
    """Takes parts and joins them."""

    def __init__(self, services: Services, tickets: Tickets, arrivals: Arrivals) -> None:
        self._services = services
        self._files = services.files
        self._tickets = tickets
        self._arrivals = arrivals

    async def put(self, request: HttpRequest, name: str, number: str) -> Response:
        """Take one part; the same part again is welcome."""
        ticket = await self._tickets.redeem("parts", name, ticket_in(request))
        index = index_of(number)
        async with self._arrivals.body(request, room(index, ticket.max_bytes)) as data:
            digest = await asyncio.to_thread(sha256, data)
            part = await self._part_name(ticket, index, digest)
            await asyncio.to_thread(keep, self._files, part, data)
        etag = f'"{digest}"'
        return JSONResponse({"partNumber": index, "etag": etag}, headers={"ETag": etag})

    async def complete(self, request: HttpRequest, name: str) -> Response:
        """Make one file of all parts; a second time changes nothing."""
        ticket = await self._tickets.redeem("parts", name, ticket_in(request))
        completion = await self._arrivals.json(request, Completion, MAX_JSON_BYTES)
        names = [
            await self._part_name(ticket, part.number, part.digest)
            for part in in_order(completion.parts)
        ]
        await asyncio.to_thread(join, self._files, names, ticket)
        base_url = orders.base_url(request, self._services.settings.ingress.public_url)
        return JSONResponse({"access_url": f"{base_url}/cdn/files/{name}"})

    async def _part_name(self, ticket: Ticket, number: int, digest: str) -> str:
        digits = await self._tickets.digest(f"part {ticket.subject} {number} {digest}")
        return name_for(digits[:32], ticket.expires + GRACE_S, OPAQUE)


def ticket_in(request: HttpRequest) -> str:
    """The ticket in the path, or else in the query."""
    return str(request.path_params.get("ticket") or request.query_params.get("ticket", ""))


def index_of(number: str) -> int:
    """The number of a part, from 1.

    Raises:
        NotFound: it is none.
    """
    if number.isdecimal() and len(number) <= 5 and 1 <= int(number) <= MAX_PARTS:
        return int(number)
    raise NotFound


def room(number: int, max_bytes: int) -> int:
    """How large part `number` may be.

    Raises:
        PayloadTooLarge: the parts before it fill the file.
    """
    left = max_bytes - (number - 1) * PART_BYTES
    if left <= 0:
        raise too_large(max_bytes)
    return min(left, PART_BYTES)


def in_order(parts: Sequence[Part]) -> list[Part]:
    """`parts` by their numbers.

    Raises:
        BadRequest: one is there twice.
    """
    ordered = sorted(parts, key=lambda part: part.number)
    if len({part.number for part in ordered}) < len(ordered):
        raise BadRequest("Each part must be named once.")
    return ordered


def keep(store: FileStore, name: str, data: bytes) -> None:
    """Store a part; one of the same name has the same bytes."""
    try:
        store.create(name, [data])
    except FileExistsError:
        return


def join(store: FileStore, names: Sequence[str], ticket: Ticket) -> None:
    """Make the file of `ticket` out of the parts called `names`, and forget those.

    Raises:
        BadRequest: a part is missing.
        ImageLoadError, UnsupportedImageFormat: it was promised to be an image.
    """
    if store.find(ticket.subject) is not None:
        return
    parts = [found(store, name, number) for number, name in enumerate(names, start=1)]
    check_image(ticket.subject, store.read(parts[0], 0, SNIFFED_BYTES))
    keep_joined(store, ticket.subject, parts)
    for name in names:
        store.remove(name)


def keep_joined(store: FileStore, name: str, parts: Sequence[StoredFile]) -> None:
    """Store the joined parts, unless somebody else has just done so."""
    try:
        store.create(name, chunks(store, parts))
    except FileExistsError:
        return
    except BadRequest:
        if store.find(name) is None:
            raise


def chunks(store: FileStore, parts: Sequence[StoredFile]) -> Iterator[bytes]:
    """The bytes of `parts`, a piece at a time.

    Raises:
        BadRequest: a part is not there any more.
    """
    for part in parts:
        for start in range(0, part.size, CHUNK_BYTES):
            try:
                yield store.read(part, start, CHUNK_BYTES)
            except FileNotFoundError:
                raise BadRequest("A part is not there any more.") from None


def found(store: FileStore, name: str, number: int) -> StoredFile:
    """The part called `name`.

    Raises:
        BadRequest: it is not there.
    """
    part = store.find(name)
    if part is None:
        raise BadRequest(f"Part {number} was not uploaded, or its etag is another's.")
    return part


def sha256(data: bytes) -> str:
    """The digest of `data` in hex."""
    return hashlib.sha256(data).hexdigest()
