"""What every request goes through, and every response comes out with.

A request gets an id and is led to its route; an error, foreseen or not, becomes fal's JSON;
a response carries the id and the CORS headers, and is counted.
Plain ASGI, so that a streamed response passes through untouched.
"""

from collections.abc import Mapping
from uuid import uuid4

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api import cors
from deployments.api.dependencies import Services
from deployments.api.error_responses import refuse
from deployments.api.path_rewrite import enter
from deployments.errors import ClientDisconnected, InternalError, ServiceError
from deployments.telemetry.log import about, logger


class Reply:
    """Sends a response with its id and `headers` added, and remembers its status.

    A response that tells of an older request has that one's id already.
    """

    def __init__(self, send: Send, request_id: str, headers: Mapping[str, str]) -> None:
        self._send = send
        self._request_id = request_id
        self._headers = headers
        self.started = False
        self.status = ClientDisconnected.status  # what it is when nothing could be sent

    async def __call__(self, message: Message) -> None:
        """Send `message`."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.setdefault("x-fal-request-id", self._request_id)
            headers.update(self._headers)
        await self._send(message)


class Envelope:
    """The middleware around all routes."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._ingress = services.settings.ingress
        self._keyring = services.keyring
        self._recorder = services.recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = with_id(scope)
        reply = Reply(send, request["state"]["request_id"], self._headers(request))
        try:
            await self._answer(request, receive, reply)
        finally:
            status = str(reply.status)
            self._recorder.record(
                "florence_ingress_requests_total", endpoint=label(request), status=status
            )

    async def _answer(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        try:
            await self._route(scope, receive, reply)
        except ServiceError as error:
            if reply.started:
                raise
            await refuse(error)(scope, receive, reply)
        except Exception as error:
            id_ = scope["state"]["request_id"]
            logger.error("request %s failed", id_, exc_info=error, extra=about(id_))
            if reply.started:
                raise
            await refuse(InternalError())(scope, receive, reply)

    async def _route(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        if scope["method"] == "OPTIONS":
            headers = cors.preflight_headers(Headers(scope=scope))
            await Response(status_code=204, headers=headers)(scope, receive, reply)
            return
        await enter(scope, self._keyring)
        await self._app(scope, receive, reply)

    def _headers(self, scope: Scope) -> dict[str, str]:
        origin = Headers(scope=scope).get("origin")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return cors.headers_for(path, origin, self._ingress.cors_origins)


def with_id(scope: Scope) -> Scope:
    """A copy of `scope` that may be changed, with a new request id."""
    return {**scope, "state": {**scope.get("state", {}), "request_id": str(uuid4())}}


def label(scope: Scope) -> str:
    """The name of the route that was taken; never a path, of which clients can invent many."""
    if scope["method"] == "OPTIONS":
        return "preflight"
    return str(getattr(scope.get("route"), "name", "unknown"))
