"""Uploads: a client hands in a file and gets a URL that runs take as their `image_url`.

fal's JavaScript client:
POST /rest/storage/upload/initiate              {upload_url, file_url}
PUT  /cdn/upload/{name}?ticket=                 the file; needs no key, and works once
POST /rest/storage/upload/initiate-multipart    {upload_url, file_url} for a file in parts
PUT  /cdn/upload/{name}/parts/{n}?ticket=       one part
POST /cdn/upload/{name}/parts/complete?ticket=  {access_url}

fal's Python client:
POST /rest/storage/auth/token                   a token to upload with
POST /cdn/files/upload                          the file; answers {access_url}
POST /cdn/files/upload/multipart                {access_url, uploadId} for a file in parts
PUT  /cdn/files/{name}/multipart/{ticket}/{n}   one part
POST /cdn/files/{name}/multipart/{ticket}/complete
"""

import asyncio
import time
from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from deployments.api.auth import Action, Permission, UrlSigner, key_in
from deployments.api.body import UploadReader
from deployments.api.dependencies import Dependencies
from deployments.api.files import tag
from deployments.api.headers import base_url, files_ttl_s
from deployments.api.multipart_upload import Completion, PartStore, max_part_bytes, number_in
from deployments.errors import Forbidden, InputError
from deployments.files.base import (
    CONTENT_TYPES,
    OPAQUE,
    SUFFIXES,
    StoredFile,
    content_type_of,
    new_name,
)
from deployments.images.decode import sniff
from deployments.settings import MIB

MAX_DECLARATION_BYTES = 64 * 1024
MAX_COMPLETION_BYTES = MIB
OTHER_TYPES = {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp", "image/tif": "image/tiff"}
OTHER_SUFFIXES = {".jpeg": ".jpg", ".tif": ".tiff"}


class Declaration(BaseModel):
    """The file that a client is about to upload."""

    file_name: str = Field("", max_length=4096)
    content_type: str = Field(OPAQUE, max_length=256)


def router(dependencies: Dependencies) -> APIRouter:
    """The routes of both clients."""
    uploads = Uploads(dependencies)
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
    for path in ("/cdn/upload/{name}/parts", "/cdn/files/{name}/multipart/{ticket}"):
        routes.add_api_route(
            f"{path}/{{number}}", uploads.put_part, methods=["PUT"], name="upload-part"
        )
        routes.add_api_route(
            f"{path}/complete", uploads.complete, methods=["POST"], name="upload-complete"
        )
    return routes


class Uploads:
    """Files from clients, whole or in parts."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._keyring = dependencies.keyring
        self._files = dependencies.files
        self._settings = dependencies.settings.files
        self._public_url = dependencies.settings.ingress.public_url
        self._signer = UrlSigner(dependencies.store)
        self._parts = PartStore(dependencies.files, self._signer)
        self._bodies = UploadReader(self._settings.upload_expires_s)

    async def initiate(self, request: HttpRequest) -> Response:
        """Name a file, and say where to put it."""
        return await self._initiate(request, "file", "")

    async def put(self, request: HttpRequest, name: str) -> Response:
        """Store the file that was named."""
        permission = await self._signer.verify("file", name, signature_in(request))
        async with self._bodies.read(request, permission.max_bytes) as data:
            check_image(name, data)
            try:
                file = await self._create(name, data)
            except FileExistsError:
                raise Forbidden("This URL was used before.") from None
        return Response(headers={"ETag": tag(file)})

    async def initiate_parts(self, request: HttpRequest) -> Response:
        """Name a file, and say where to put its parts."""
        return await self._initiate(request, "parts", "/parts")

    async def token(self, request: HttpRequest) -> Response:
        """A token that uploads without the key."""
        await self._keyring.authorize(request.headers)
        expires = int(time.time() + self._settings.upload_expires_s)
        permission = Permission("token", "", self._settings.max_upload_bytes, expires)
        return JSONResponse(
            {
                "token": await self._signer.sign(permission),
                "token_type": "Bearer",
                "base_url": f"{self._base_url(request)}/cdn",
                "expires_at": datetime.fromtimestamp(expires, UTC).isoformat(),
            }
        )

    async def post(self, request: HttpRequest) -> Response:
        """Store a whole file, whose type its bytes show."""
        await self._authorize(request)
        ttl_s = self._ttl_s(request)
        async with self._bodies.read(request, self._settings.max_upload_bytes) as data:
            file = await self._create(new_name(type_of(data), ttl_s), data)
        return self._access(request, file.name)

    async def post_parts(self, request: HttpRequest) -> Response:
        """Name a file whose parts are put below its URL."""
        await self._authorize(request)
        headers = request.headers
        declaration = Declaration.model_construct(
            file_name=headers.get("x-fal-file-name", ""),
            content_type=headers.get("content-type", OPAQUE),
        )
        name, signature = await self._reserve(request, declaration, "parts")
        return JSONResponse({"access_url": self._file_url(request, name), "uploadId": signature})

    async def put_part(self, request: HttpRequest, name: str, number: str) -> Response:
        """Store one part."""
        permission = await self._signer.verify("parts", name, signature_in(request))
        index = number_in(number)
        max_bytes = max_part_bytes(index, permission.max_bytes)
        async with self._bodies.read(request, max_bytes) as data:
            etag = f'"{await self._parts.put(permission, index, data)}"'
        return JSONResponse({"partNumber": index, "etag": etag}, headers={"ETag": etag})

    async def complete(self, request: HttpRequest, name: str) -> Response:
        """Make one file of all parts."""
        permission = await self._signer.verify("parts", name, signature_in(request))
        completion = await self._bodies.read_json(request, Completion, MAX_COMPLETION_BYTES)
        await self._parts.join(permission, completion.parts, partial(check_image, name))
        return self._access(request, name)

    async def _initiate(self, request: HttpRequest, action: Action, below: str) -> Response:
        await self._keyring.authorize(request.headers)
        declaration = await self._bodies.read_json(request, Declaration, MAX_DECLARATION_BYTES)
        name, signature = await self._reserve(request, declaration, action)
        upload_url = f"{self._base_url(request)}/cdn/upload/{name}{below}?ticket={signature}"
        return JSONResponse({"upload_url": upload_url, "file_url": self._file_url(request, name)})

    async def _reserve(
        self, request: HttpRequest, declaration: Declaration, action: Action
    ) -> tuple[str, str]:
        """The name of a new file, and the signature that permits `action` on it."""
        ttl_s = self._ttl_s(request)
        name = new_name(stored_type(declaration), ttl_s)
        # The file expires `ttl_s` from now, so it must not arrive later.
        expires = int(time.time() + min(self._settings.upload_expires_s, ttl_s))
        permission = Permission(action, name, self._settings.max_upload_bytes, expires)
        return name, await self._signer.sign(permission)

    async def _create(self, name: str, data: bytes) -> StoredFile:
        return await asyncio.to_thread(self._files.create, name, [data])

    async def _authorize(self, request: HttpRequest) -> None:
        """Accept a token of ours, or a key.

        Raises:
            Unauthorized: neither.
        """
        try:
            await self._signer.verify("token", "", key_in(request.headers))
        except Forbidden:
            await self._keyring.authorize(request.headers)

    def _ttl_s(self, request: HttpRequest) -> float:
        ttl_s = files_ttl_s(request.headers)
        return self._settings.expires_s if ttl_s is None else ttl_s

    def _access(self, request: HttpRequest, name: str) -> Response:
        return JSONResponse({"access_url": self._file_url(request, name)})

    def _file_url(self, request: HttpRequest, name: str) -> str:
        return f"{self._base_url(request)}/cdn/files/{name}"

    def _base_url(self, request: HttpRequest) -> str:
        return base_url(request, self._public_url)


def signature_in(request: HttpRequest) -> str:
    """The signature in the path, or else in the query."""
    return str(request.path_params.get("ticket") or request.query_params.get("ticket", ""))


def stored_type(declaration: Declaration) -> str:
    """The type that the file is kept as: an image's, by its type or else by its file name."""
    declared = declaration.content_type.partition(";")[0].strip().lower()
    declared = OTHER_TYPES.get(declared, declared)
    if declared != OPAQUE:
        return declared if declared in SUFFIXES else OPAQUE
    suffix = "." + declaration.file_name.rpartition(".")[2].lower()
    return CONTENT_TYPES.get(OTHER_SUFFIXES.get(suffix, suffix), OPAQUE)


def type_of(data: bytes) -> str:
    """The content type of an image that can be read; anything else is opaque."""
    try:
        return f"image/{sniff(data).lower()}"
    except InputError:
        return OPAQUE


def check_image(name: str, start: bytes) -> None:
    """Refuse a file that was declared as an image and does not begin like one.

    Which image it is does not matter: people rename them, and every decoder looks for itself.

    Raises:
        ImageLoadError, UnsupportedImageFormat: it is none that can be read.
    """
    if content_type_of(name) == OPAQUE:
        return
    try:
        sniff(start)
    except InputError as error:
        error.loc = ("body",)
        raise
