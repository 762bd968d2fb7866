"""A client that costs next to nothing: HTTP/1.1 over kept connections, in asyncio.

The load shares the machine with the service, so processor time of the client is missing there.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class RawAnswer:
    """A status, a body and the bytes of all headers."""

    status: int
    body: bytes
    head: bytes = b""


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it, as it does after some idle time."""
        return not self._reader.at_eof()

    async def ask(self, request: bytes) -> RawAnswer:
        """The answer, which must have a Content-Length."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        found = LENGTH.search(head)
        body = await self._reader.readexactly(int(found[1])) if found else b""
        return RawAnswer(int(head[9:12]), body, head)

    def close(self) -> None:
        self._writer.close()


class ConnectionPool:
    """As many kept connections as there are requests under way."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Connection] = []

    async def ask(self, request: bytes) -> RawAnswer:
        """The answer; status 0 when the connection broke."""
        try:
            connection = self._kept() or await Connection.open(self._url)
            answer = await connection.ask(request)
        except (OSError, EOFError):
            return RawAnswer(0, b"")
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _kept(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return None


def message(method: str, path: str, key: str, body: bytes = b"") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Key {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
