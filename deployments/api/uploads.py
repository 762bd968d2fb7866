"""Uploads: a client hands in a file and gets a URL that runs take as their `image_url`.

    POST /rest/storage/upload/initiate              {upload_url, file_url}
    PUT  /cdn/upload/{name}?ticket=                 the file; needs no key, and works once
    POST /rest/storage/upload/initiate-multipart    the same for a file in parts
    POST /rest/storage/auth/token                   a token to upload with
    POST /cdn/files/upload                          the file; answers {access_url}
    POST /cdn/files/upload/multipart                {access_url, uploadId} for a file in parts

The first three are what fal's JavaScript client does, the others its Python client;
how parts arrive is in `parts.py`.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from deployments.api import headers as orders
from deployments.api import parts
from deployments.api.arrivals import Arrivals, check_image, sniffed
from deployments.api.auth import key_in
from deployments.api.dependencies import Services
from deployments.api.files import tag
from deployments.api.lifecycle import files_ttl_s
from deployments.api.signed_urls import Action, Ticket, Tickets
from deployments.errors import Forbidden
from deployments.files.base import CONTENT_TYPES, OPAQUE, SUFFIXES, new_name

MAX_JSON_BYTES = 64 * 1024
OTHER_TYPES = {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp", "image/tif": "image/tiff"}
OTHER_SUFFIXES = {".jpeg": ".jpg", ".tif": ".tiff"}


class Intent(BaseModel):
    """What a client is about to upload."""

    file_name: str = Field("", max_length=4096)
    content_type: str = Field(OPAQUE, max_length=256)


@dataclass(frozen=True)
class Promise:
    """A file that will be: its name, its URL, and the ticket to upload it with."""

    name: str
    url: str
    ticket: str


def router(services: Services) -> APIRouter:
    """All that uploads."""
    tickets = Tickets(services.store)
    arrivals = Arrivals(services.files, services.settings.files)
    uploads = Uploads(services, tickets, arrivals)
    routes = APIRouter()
    for method, path, handler, name in (
        ("POST", "/rest/storage/upload/initiate", uploads.initiate, "upload-initiate"),
        ("PUT", "/cdn/upload/{name}", uploads.put, "upload"),
        ("POST", "/rest/storage/upload/initiate-multipart", uploads.initiate_parts, "upload-parts"),
        ("POST", "/rest/storage/auth/token", uploads.token, "upload-token"),
        ("POST", "/cdn/files/upload", uploads.post, "upload-post"),
        ("POST", "/cdn/files/upload/multipart", uploads.post_parts, "upload-post-parts"),
    ):
        routes.add_api_route(path, handler, methods=[method], name=name)
    routes.include_router(parts.router(services, tickets, arrivals))
    return routes


class Uploads:
    """The beginning of every upload, and files that come whole."""

    def __init__(self, services: Services, tickets: Tickets, arrivals: Arrivals) -> None:
        self._services = services
        self._files = services.settings.files
        self._tickets = tickets
        self._arrivals = arrivals

    async def initiate(self, request: HttpRequest) -> Response:
        """Promise the URL of a file, and say where to put it."""
        promise = await self._intended(request, "file")
        return JSONResponse(urls(promise, self._upload_url(request, promise, "")))

    async def put(self, request: HttpRequest, name: str) -> Response:
        """Take the file that was promised under `name`."""
        ticket = await self._tickets.redeem("file", name, request.query_params.get("ticket", ""))
        async with self._arrivals.body(request, ticket.max_bytes) as data:
            check_image(name, data)
            try:
                file = await self._arrivals.create(name, [data])
            except FileExistsError:
                raise Forbidden("This URL was used before.") from None
        return Response(headers={"ETag": tag(file)})

    async def initiate_parts(self, request: HttpRequest) -> Response:
        """Promise the URL of a file, and say where to put its parts."""
        promise = await self._intended(request, "parts")
        return JSONResponse(urls(promise, self._upload_url(request, promise, "/parts")))

    async def token(self, request: HttpRequest) -> Response:
        """A token that uploads without the key."""
        await self._services.keyring.authorize(request.headers)
        expires = int(time.time() + self._files.upload_expires_s)
        ticket = Ticket("token", "", self._files.max_upload_bytes, expires)
        return JSONResponse(
            {
                "token": await self._tickets.sign(ticket),
                "token_type": "Bearer",
                "base_url": f"{self._base_url(request)}/cdn",
                "expires_at": datetime.fromtimestamp(expires, UTC).isoformat(),
            }
        )

    async def post(self, request: HttpRequest) -> Response:
        """Take a file whole; its bytes say what it is."""
        await self._authorize(request)
        ttl_s = self._ttl_s(request)
        async with self._arrivals.body(request, self._files.max_upload_bytes) as data:
            file = await self._arrivals.create(new_name(sniffed(data), ttl_s), [data])
        return JSONResponse({"access_url": self._file_url(request, file.name)})

    async def post_parts(self, request: HttpRequest) -> Response:
        """Promise the URL of a file whose parts are put below it."""
        await self._authorize(request)
        headers = request.headers
        intent = Intent.model_construct(
            file_name=headers.get("x-fal-file-name", ""),
            content_type=headers.get("content-type", OPAQUE),
        )
        promise = await self._promise(request, intent, "parts")
        return JSONResponse({"access_url": promise.url, "uploadId": promise.ticket})

    async def _intended(self, request: HttpRequest, action: Action) -> Promise:
        await self._services.keyring.authorize(request.headers)
        intent = await self._arrivals.json(request, Intent, MAX_JSON_BYTES)
        return await self._promise(request, intent, action)

    async def _promise(self, request: HttpRequest, intent: Intent, action: Action) -> Promise:
        ttl_s = self._ttl_s(request)
        name = new_name(stored_type(intent), ttl_s)
        # A file lives from its promise on, so it cannot arrive when its life is over.
        expires = int(time.time() + min(self._files.upload_expires_s, ttl_s))
        ticket = Ticket(action, name, self._files.max_upload_bytes, expires)
        text = await self._tickets.sign(ticket)
        return Promise(name, self._file_url(request, name), text)

    async def _authorize(self, request: HttpRequest) -> None:
        """Admit whoever has a token of ours, or a key.

        Raises:
            Unauthorized: neither.
        """
        try:
            await self._tickets.redeem("token", "", key_in(request.headers))
        except Forbidden:
            await self._services.keyring.authorize(request.headers)

    def _ttl_s(self, request: HttpRequest) -> float:
        wished = files_ttl_s(request.headers)
        return self._files.expires_s if wished is None else wished

    def _base_url(self, request: HttpRequest) -> str:
        return orders.base_url(request, self._services.settings.ingress.public_url)

    def _file_url(self, request: HttpRequest, name: str) -> str:
        return f"{self._base_url(request)}/cdn/files/{name}"

    def _upload_url(self, request: HttpRequest, promise: Promise, below: str) -> str:
        place = f"{self._base_url(request)}/cdn/upload/{promise.name}{below}"
        return f"{place}?ticket={promise.ticket}"


def urls(promise: Promise, upload_url: str) -> dict[str, str]:
    """The answer to an initiate."""
    return {"upload_url": upload_url, "file_url": promise.url}


def stored_type(intent: Intent) -> str:
    """The type that the file is kept as: an image's, by its type or else by its file name."""
    declared = intent.content_type.partition(";")[0].strip().lower()
    declared = OTHER_TYPES.get(declared, declared)
    if declared != OPAQUE:
        return declared if declared in SUFFIXES else OPAQUE
    suffix = "." + intent.file_name.rpartition(".")[2].lower()
    return CONTENT_TYPES.get(OTHER_SUFFIXES.get(suffix, suffix), OPAQUE)
