"""The page for people, and what programs get at the same address.

Its files are read and compressed once, when the service starts. Nobody needs a key for them: the
page asks for one, and calls the service as any client does.
"""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from deployments.api.dependencies import Dependencies
from deployments.api.health import index
from deployments.api.openapi import add_get
from deployments.errors import NotFound

FOLDER = Path(__file__).parent.parent / "playground"
INDEX = "index.html"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
TEXTS = (".css", ".html", ".js", ".svg")
# Nothing comes from elsewhere but a picture whose address the person has typed.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob: https: http:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # kept, but asked for: a new version is seen at once
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Page:
    """A file as it is sent, with its tag; `gzipped` is empty where that would not be smaller."""

    content_type: str
    body: bytes
    gzipped: bytes
    tag: str

    @classmethod
    def of(cls, body: bytes, suffix: str) -> "Page":
        """The file with this body, whose name ends in `suffix`."""
        gzipped = gzip.compress(body, 9, mtime=0) if suffix in TEXTS else b""
        return cls(CONTENT_TYPES[suffix], body, gzipped, hashlib.sha256(body).hexdigest()[:20])

    def response(self, request: HttpRequest) -> Response:
        """The file for `request`: compressed where the browser can, 304 where it has it."""
        accepted = request.headers.get("accept-encoding", "")
        is_gzipped = bool(self.gzipped) and "gzip" in accepted
        etag = f'"{self.tag}-gzip"' if is_gzipped else f'"{self.tag}"'
        headers = HEADERS | {"ETag": etag, "Vary": "Accept, Accept-Encoding"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if is_gzipped:
            headers["Content-Encoding"] = "gzip"
        body = self.gzipped if is_gzipped else self.body
        return Response(body, headers=headers | {"Content-Type": self.content_type})


def router(dependencies: Dependencies) -> APIRouter:
    """`/` for people and programs, and the page's files."""
    playground = Playground(dependencies)
    routes = APIRouter()
    add_get(routes, "/", playground.index, "index")
    if dependencies.settings.ingress.playground:
        add_get(
            routes,
            "/playground/{name:path}",
            playground.file,
            "playground",
            include_in_schema=False,
        )
    return routes


class Playground:
    """The page's files, by their path in the folder."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._files = read_files() if dependencies.settings.ingress.playground else {}

    async def index(self, request: HttpRequest) -> Response:
        """The page for browsers, else what is served here as JSON."""
        if INDEX in self._files and wants_html(request):
            return self._files[INDEX].response(request)
        return JSONResponse(index(self._dependencies), headers={"Vary": "Accept"})

    async def file(self, request: HttpRequest, name: str) -> Response:
        """One of the page's files."""
        if name not in self._files:
            raise NotFound
        return self._files[name].response(request)


def read_files() -> dict[str, Page]:
    """Every file of the page, by its path in the folder."""
    return {
        file.relative_to(FOLDER).as_posix(): Page.of(file.read_bytes(), file.suffix)
        for file in sorted(FOLDER.rglob("*"))
        if file.suffix in CONTENT_TYPES
    }


def wants_html(request: HttpRequest) -> bool:
    """Whether the caller names HTML, as browsers do; `*/*` is a program."""
    return "text/html" in request.headers.get("accept", "").lower()
