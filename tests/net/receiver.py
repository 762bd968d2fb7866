"""A real HTTP server on the loopback interface that keeps what is posted to it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from deployments.net.connect import Resolve
from deployments.net.guard import Address

AUTHORITIES = ssl.create_default_context()  # reading them takes 20 ms


@dataclass(frozen=True)
class Posted:
    """One request; header names are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Posted, asyncio.StreamWriter], Awaitable[None]]


class LoopbackServer:
    """A server that handles connections in `handle`, and counts them."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.num_connections = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read what comes and answer it."""
        raise NotImplementedError

    async def start(self, port: int = 0) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port, ssl=self.context)
        self.port: int = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        if task := asyncio.current_task():
            self.tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self.handle(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def stop(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted transports close
        await self.server.wait_closed()

    def url(self, host: str = "hooks.example", path: str = "/hook") -> str:
        """Its address, under any name."""
        scheme = "https" if self.context else "http"
        return f"{scheme}://{host}:{self.port}{path}"


class Receiver(LoopbackServer):
    """Answers every request with `answer`, and keeps the requests."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        super().__init__(context)
        self.answer = answer
        self.posted: list[Posted] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.posted.append(await read(reader))
        await self.answer(self.posted[-1], writer)


def resolver(**hosts: Sequence[str]) -> Resolve:
    """Resolve like a name server that knows `hosts`, with _ for a dot, and loopback for others."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address(each) for each in hosts.get(host.replace(".", "_"), ["127.0.0.1"])]

    return resolve


async def read(reader: asyncio.StreamReader) -> Posted:
    """A request, with a body when its length is declared."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *fields = head.split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in fields)}
    length = int(headers.get("content-length", "0"))
    return Posted(line, headers, await reader.readexactly(length))


@contextlib.asynccontextmanager
async def receiving(
    answer: Answer, port: int = 0, context: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """A receiver that listens inside the block; on a free port when none is given."""
    receiver = Receiver(answer, context)
    await receiver.start(port)
    try:
        yield receiver
    finally:
        await receiver.stop()


def reply(content: bytes) -> Answer:
    """Send these bytes and close."""

    async def answer(posted: Posted, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    return answer


def status(*codes: int) -> Answer:
    """Answer with each of these in turn, then with the last one for ever."""
    left = list(codes)

    async def answer(posted: Posted, writer: asyncio.StreamWriter) -> None:
        code = left.pop(0) if len(left) > 1 else left[0]
        await reply(f"HTTP/1.1 {code} Said\r\nContent-Length: 2\r\n\r\nok".encode())(posted, writer)

    return answer


def moved(location: str, code: int = 302) -> Answer:
    """Send the caller elsewhere."""
    return reply(
        f"HTTP/1.1 {code} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    )


async def silent(posted: Posted, writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


def endless(head: bytes, part: bytes, pause_s: float = 0.0) -> Answer:
    """Send `head`, then `part` for ever."""

    async def answer(posted: Posted, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return answer
