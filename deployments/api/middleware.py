"""What every request goes through, and every response comes out with.

A request gets an id, and its path is rewritten to that of a route.
An error, foreseen or not, becomes fal's JSON.
A response gets the id and the CORS headers, and is counted.
Plain ASGI, so that a streamed response passes through untouched.

The paths that are rewritten:

    /fal-ai/florence-2-large/...             → /run/fal-ai/florence-2-large/...
    /fal-ai/florence-2-large/requests/...    → /queue/fal-ai/florence-2-large/requests/...
    the same with a task before /requests    → the same
    /fal-ai/... at a host called queue.…     → /queue/fal-ai/...
    /api/fal/proxy with x-fal-target-url     → the prefix of the fal host in it, and its path
    any of them with a slash at the end      → without

The target URL is a label: it is never fetched.
Redirects would do the same, but not every client of fal follows them.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from fastapi import Request as HttpRequest
from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.auth import Keyring
from deployments.api.dependencies import Dependencies
from deployments.api.headers import host
from deployments.api.responses import error_response
from deployments.errors import BadRequest, ClientDisconnected, InternalError, ServiceError
from deployments.florence.tasks import APP
from deployments.telemetry.log import about, logger

METHODS = "GET, HEAD, POST, PUT, OPTIONS"
ACCEPTED_HEADERS = (
    "authorization, content-type, accept, cache-control, range, x-fal-target-url, "
    "x-fal-queue-priority, x-fal-request-timeout, x-fal-runner-hint, x-fal-object-lifecycle, "
    "x-fal-object-lifecycle-preference, x-fal-store-io, x-fal-no-retry, x-fal-retry-config, "
    "x-fal-tags, x-fal-file-name, x-app-fal-disable-fallback, idempotency-key"
)
EXPOSED_HEADERS = (
    "x-fal-request-id, x-fal-request-timeout-type, x-fal-error-type, x-fal-needs-retry, "
    "etag, retry-after, server-timing, idempotent-replayed, x-florence-image-cache, "
    "x-florence-model"
)
PREFLIGHT_MAX_AGE_S = 600
# Files are public to those who know the name, and public keys to all: so on any page.
PUBLIC_PATHS = ("/cdn/files/", "/.well-known/", "/rest/.well-known/")

PROXY = "/api/fal/proxy"
TARGET = "x-fal-target-url"
PREFIXES = {
    "fal.run": "/run",
    "queue.fal.run": "/queue",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",
}
JOB_PATH = re.compile(rf"/{re.escape(APP)}(/[^/]+)?/requests/")
INVALID_TARGET = (
    f"The header {TARGET} must hold the https URL of a fal endpoint: "
    f"one of the hosts {', '.join(PREFIXES)}."
)


class Envelope:
    def __init__(self, app: ASGIApp, dependencies: Dependencies) -> None:
        self._app = app
        self._cors_origins = dependencies.settings.ingress.cors_origins
        self._keyring = dependencies.keyring
        self._recorder = dependencies.recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = with_id(scope)
        reply = Reply(send, request["state"]["request_id"], self._cors_headers(request))
        try:
            await self._answer(request, receive, reply)
        finally:
            status = str(reply.status)
            self._recorder.record(
                "florence_ingress_requests_total", endpoint=label(request), status=status
            )

    async def _answer(self, scope: Scope, receive: Receive, reply: "Reply") -> None:
        try:
            await self._route(scope, receive, reply)
        except ServiceError as error:
            if reply.started:
                raise
            await error_response(error)(scope, receive, reply)
        except Exception as error:
            id_ = scope["state"]["request_id"]
            logger.error("request %s failed", id_, exc_info=error, extra=about(id_))
            if reply.started:
                raise
            await error_response(InternalError())(scope, receive, reply)

    async def _route(self, scope: Scope, receive: Receive, reply: "Reply") -> None:
        if scope["method"] == "OPTIONS":
            headers = preflight_headers(Headers(scope=scope))
            await Response(status_code=204, headers=headers)(scope, receive, reply)
            return
        await rewrite_path(scope, self._keyring)
        await self._app(scope, receive, reply)

    def _cors_headers(self, scope: Scope) -> dict[str, str]:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return cors_headers(path, Headers(scope=scope).get("origin"), self._cors_origins)


class Reply:
    """Sends a response with its id and `headers` added, and remembers its status.

    A response about a job has the job's id already.
    """

    def __init__(self, send: Send, request_id: str, headers: Mapping[str, str]) -> None:
        self._send = send
        self._request_id = request_id
        self._headers = headers
        self.started = False
        self.status = ClientDisconnected.status  # unless something is sent

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.setdefault("x-fal-request-id", self._request_id)
            more = dict(self._headers)
            if vary := more.pop("vary", None):
                headers.add_vary_header(vary)
            headers.update(more)
        await self._send(message)


def with_id(scope: Scope) -> Scope:
    """A copy of `scope` that may be changed, with a new request id."""
    return {**scope, "state": {**scope.get("state", {}), "request_id": str(uuid4())}}


def label(scope: Scope) -> str:
    """The name of the route; never a path, because clients can invent many."""
    if scope["method"] == "OPTIONS":
        return "preflight"
    return str(getattr(scope.get("route"), "name", "unknown"))


def cors_headers(path: str, origin: str | None, origins: Sequence[str]) -> dict[str, str]:
    """The CORS headers of every response, errors included.

    Keys travel in a header and never in a cookie, so any origin may call by default.
    """
    exposed = {"access-control-expose-headers": EXPOSED_HEADERS}
    if "*" in origins or path.startswith(PUBLIC_PATHS):
        return exposed | {"access-control-allow-origin": "*"}
    if origin in origins:
        return exposed | {"access-control-allow-origin": str(origin), "vary": "Origin"}
    return {"vary": "Origin"}


def preflight_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The answer to a browser that asks what it may send."""
    return {
        "allow": METHODS,
        "access-control-allow-methods": METHODS,
        "access-control-allow-headers": headers.get(
            "access-control-request-headers", ACCEPTED_HEADERS
        ),
        "access-control-max-age": str(PREFLIGHT_MAX_AGE_S),
    }


async def rewrite_path(scope: Scope, keyring: Keyring) -> None:
    """Change the path in `scope` to that of a route.

    Notes in the scope's state whether the caller named the queue's host,
    so that URLs in the answer name it as well.

    Raises:
        Unauthorized: the proxy was called without a key.
        BadRequest: the proxy was called without a target that it serves.
    """
    root = scope.get("root_path", "")
    path = trim(scope["path"].removeprefix(root))
    if path == PROXY:
        headers = Headers(scope=scope)
        await keyring.authorize(headers)
        path, scope["query_string"] = proxied(headers.get(TARGET, ""))
    elif path.startswith(f"/{APP}/"):
        is_queue_host = host(HttpRequest(scope)).lower().startswith("queue.")
        scope["state"]["is_queue_host"] = is_queue_host
        path = ("/queue" if is_queue_host or JOB_PATH.match(path) else "/run") + path
    scope["path"] = root + path
    scope["raw_path"] = quote(root + path).encode()


def proxied(target: str) -> tuple[str, bytes]:
    """The path and the query here of the fal URL `target`."""
    try:
        url = urlsplit(target)
    except ValueError:
        raise BadRequest(INVALID_TARGET) from None
    if url.scheme not in ("https", "http") or url.hostname not in PREFIXES:
        raise BadRequest(INVALID_TARGET)
    return trim(PREFIXES[url.hostname] + unquote(url.path)), url.query.encode("latin-1")


def trim(path: str) -> str:
    return path.rstrip("/") or "/"
