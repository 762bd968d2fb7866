"""A reverse proxy that terminates TLS, with a certificate of the private authority."""

import asyncio
import ssl
from contextlib import suppress

from deployments.local.tls import Certificates
from tests.acceptance.threaded_server import ThreadedServer

CHUNK_BYTES = 64 * 1024
FORWARDED = b"X-Forwarded-Proto: https\r\nConnection: close\r\n"


class TlsProxy(ThreadedServer):
    """Passes each request on to `port_behind`."""

    def __init__(self, certificates: Certificates, port_behind: int) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.server, certificates.server_key)
        super().__init__(context)
        self._port_behind = port_behind

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its response; the header ends the connection after it."""
        with suppress(OSError, EOFError, asyncio.CancelledError):
            first, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            behind, before = await asyncio.open_connection("127.0.0.1", self._port_behind)
            before.write(first + b"\r\n" + FORWARDED + without_connection(rest))
            sending = asyncio.create_task(pump(reader, before))
            try:
                await pump(behind, writer)
            finally:
                sending.cancel()
                before.close()
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the end of the stream."""
    with suppress(OSError):
        while piece := await reader.read(CHUNK_BYTES):
            writer.write(piece)
            await writer.drain()


def without_connection(headers: bytes) -> bytes:
    """The headers without `Connection`, which holds for one hop."""
    lines = headers.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"connection:"))
