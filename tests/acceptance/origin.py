"""A web server on loopback: it serves a scene, and misbehaves in ways that a fetch must survive."""

import asyncio
import gzip
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.acceptance.threaded_server import ThreadedServer

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

LATE_S = 1.5  # clients that ask every half second see that the request runs


class Origin(ThreadedServer):
    """`paths` has the behaviour of each path."""

    def __init__(self, picture: bytes) -> None:
        super().__init__()
        self._picture = picture
        self.asked: Counter[str] = Counter()
        self.paths: dict[str, Answer] = {
            "/scene.png": self._serve_picture,
            "/late.png": self._serve_late,
            "/missing": self._missing,
            "/hangs": self._hang,
            "/drips": self._drip,
            "/endless": self._endless,
            "/loop": redirect("/loop"),
            "/private": redirect("http://127.0.0.2:80/"),
            "/metadata": redirect("http://169.254.169.254/latest/meta-data/"),
            "/file": redirect("file:///etc/passwd"),
            "/moved": redirect("/scene.png"),
            "/declared-large": self._declared_large,
            "/cut-short": self._cut_short,
            "/longer": self._longer,
            "/slow-headers": self._slow_headers,
            "/gzip-bomb": self._gzip_bomb,
            "/huge-headers": self._huge_headers,
        }

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            self.asked[path] += 1
            await self.paths[path](writer)
            await writer.drain()
        writer.close()

    async def _serve_picture(self, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, len(self._picture)) + self._picture)

    async def _serve_late(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(LATE_S)
        await self._serve_picture(writer)

    async def _missing(self, writer: asyncio.StreamWriter) -> None:
        writer.write(head(404, 0))

    async def _hang(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, len(self._picture)))
        for byte in self._picture:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.2)

    async def _endless(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    async def _declared_large(self, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, 10**12))
        await asyncio.sleep(3600)

    async def _cut_short(self, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, len(self._picture)) + self._picture[:100])

    async def _longer(self, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, len(self._picture)) + self._picture + bytes(1000))

    async def _slow_headers(self, writer: asyncio.StreamWriter) -> None:
        for byte in head(200, len(self._picture)):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.2)

    async def _gzip_bomb(self, writer: asyncio.StreamWriter) -> None:
        bomb = gzip.compress(bytes(100_000_000))
        packed = head(200, len(bomb)).replace(
            b"Connection", b"Content-Encoding: gzip\r\nConnection"
        )
        writer.write(packed + bomb)

    async def _huge_headers(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"X-Large: " + b"x" * 10_000_000 + b"\r\n\r\n")


def head(status: int, length: int) -> bytes:
    """A status line and headers."""
    return (
        f"HTTP/1.1 {status} -\r\nContent-Type: image/png\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


def held(picture: bytes, seconds: float) -> Answer:
    """An answer that comes after so many seconds."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        writer.write(head(200, len(picture)) + picture)

    return answer


def redirect(target: str) -> Answer:
    """An answer that sends the client to `target`."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 302 -\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())

    return answer
