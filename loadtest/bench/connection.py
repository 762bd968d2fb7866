"""A client that costs next to nothing: HTTP/1.1 over one kept connection, in asyncio.

The load shares the machine with the service, so what the client takes the service lacks.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """A status, a body and the bytes of all headers."""

    status: int
    body: bytes
    head: bytes = b""


class Connection:
    """Asks one thing after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """A connection to the host and port in `url`."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    @property
    def is_open(self) -> bool:
        """Whether the other side has not hung up, as it does on who is silent for long."""
        return not self._reader.at_eof()

    async def ask(self, request: bytes) -> Answer:
        """The answer to `request`, whose length it must tell."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        found = LENGTH.search(head)
        body = await self._reader.readexactly(int(found[1])) if found else b""
        return Answer(int(head[9:12]), body, head)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def message(method: str, path: str, key: str, body: bytes = b"") -> bytes:
    """A whole request, ready to be sent as often as one likes."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Key {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
