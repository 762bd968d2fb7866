"""A reverse proxy that terminates TLS, with a certificate of the private authority."""

import asyncio
import ssl
import threading
from contextlib import suppress

from deployments.local.tls import Certificates

CHUNK_BYTES = 64 * 1024
FORWARDED = b"X-Forwarded-Proto: https\r\nConnection: close\r\n"


class TlsProxy:
    """Listens on loopback from `start` to `stop`, and passes each request on to `port_behind`."""

    def __init__(self, certificates: Certificates, port_behind: int) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificates.server, certificates.server_key)
        self._port_behind = port_behind
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-proxy")
        self.port = 0

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """End every connection and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
