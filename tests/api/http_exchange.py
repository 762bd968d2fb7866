"""An ASGI request whose response is read while it is sent, in the same event loop."""

import asyncio
import json
from types import TracebackType
from typing import Any, Self

from starlette.types import ASGIApp, Message, Send

from .service import AUTHORIZED

TIMEOUT_S = 5.0


class HttpExchange:
    """A GET, or a POST of a body, that begins with the `async with` block.

    The client disconnects at the end of the block.
    """

    def __init__(
        self, app: ASGIApp, path: str, query: str = "", body: bytes | None = None, /, **headers: str
    ) -> None:
        named = AUTHORIZED | headers
        self._app = app
        self._body = body
        self._scope = {
            "type": "http",
            "method": "GET" if body is None else "POST",
            "path": path,
            "scheme": "http",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
        }
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._left = asyncio.Event()
        self.send: Send = self._sent.put

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._call())
        return self

    async def __aexit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.disconnect()
        async with asyncio.timeout(TIMEOUT_S):
            await self.task

    def disconnect(self) -> None:
        """Close the client's side."""
        self._left.set()

    async def start(self) -> tuple[int, dict[str, str]]:
        """The status and the headers."""
        message = await self._next()
        headers = {name.decode(): value.decode() for name, value in message["headers"]}
        return message["status"], headers

    async def piece(self) -> str:
        """The next piece of the body; empty at its end."""
        return str((await self._next()).get("body", b"").decode())

    async def event(self) -> Any:
        """The JSON of the next event."""
        piece = await self.piece()
        assert piece.startswith("data: "), piece
        assert piece.endswith("\n\n")
        return json.loads(piece.removeprefix("data: "))

    async def _call(self) -> None:
        await self._app(self._scope, self._receive, self.send)

    async def _next(self) -> Message:
        async with asyncio.timeout(TIMEOUT_S):
            return await self._sent.get()

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self._left.wait()
        return {"type": "http.disconnect"}
