"""Post to a client's URL without becoming the client's proxy into our network.

The host is resolved once, refused unless all its addresses may be called, and connected to at an
address that was checked; TLS still names and verifies the host.
Redirects are not followed, and what the server says beyond its status is not kept.
Nothing is shared between calls: no pool, no cookies, no credentials, no proxy.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping

import httpcore2
import httpx2

from deployments.net.connect import GuardedBackend, Resolve, resolve_host
from deployments.net.failures import FAILURES, explain
from deployments.net.guard import AddressRefused, Guard
from deployments.net.url import CallRefused, core_url, host_of, parse_url
from deployments.settings import WebhookSettings

HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "Content-Type": "application/json",
    "User-Agent": "florence-serve",
}
CONNECT_TIMEOUT_S = 5.0
# An answer is read to spare its server a broken connection, but not for long: nobody needs it.
MAX_ANSWER_BYTES = 64 * 1024
ANSWER_TIMEOUT_S = 1.0


class CallFailed(Exception):
    """The call came to nothing, and another may not; the message is half a sentence."""


class Poster:
    """Posts JSON within the limits of `settings`."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare to post.

        `resolve` turns a host into addresses, the system's resolver by default.
        `ssl_context` holds the trusted authorities: the system's by default, or those in
        SSL_CERT_FILE, which an operator behind a private authority sets.

        Raises:
            SetupError: an entry of `allowed_hosts` cannot be read.
        """
        self._timeout_s = settings.timeout_s
        self._ssl_context = ssl_context or httpcore2.default_ssl_context()
        self._backend = GuardedBackend(
            Guard(settings.allowed_ports, settings.allowed_hosts), resolve or resolve_host
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The HTTP status with which the server at `url` answers `body`, whichever it is.

        Raises:
            CallRefused: this URL may not be posted to, now or later.
            CallFailed: the server was not reached, broke off, or took too long.
        """
        target = checked(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(target, body, headers)
        except TimeoutError:
            raise CallFailed(f"it took longer than {self._timeout_s:g} seconds") from None
        except AddressRefused as error:
            raise CallRefused(str(error)) from None
        except UnicodeError as error:  # from the resolver, about the name
            raise CallRefused(explain(error)) from None
        except socket.gaierror:
            raise CallFailed("the host name could not be resolved") from None
        except FAILURES as error:
            raise CallFailed(explain(error)) from None

    async def _send(self, url: httpx2.URL, body: bytes, headers: Mapping[str, str]) -> int:
        async with (
            httpcore2.AsyncConnectionPool(self._ssl_context, network_backend=self._backend) as pool,
            pool.stream(
                "POST",
                core_url(url),
                headers=list(all_headers(url, body, headers).items()),
                content=body,
                extensions={
                    "timeout": {"connect": CONNECT_TIMEOUT_S},
                    "sni_hostname": host_of(url).removesuffix("."),
                },
            ) as response,
        ):
            await discard(response)
            return int(response.status)


def checked(url: str) -> httpx2.URL:
    """A URL that may be posted to as far as its text can tell.

    Raises:
        CallRefused: it may not.
    """
    try:
        return parse_url(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise CallRefused(explain(error)) from None


def all_headers(url: httpx2.URL, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    """Everything that is sent before the body."""
    host = url.netloc.decode("ascii")
    return {"Host": host, **HEADERS, "Content-Length": str(len(body)), **headers}


async def discard(response: httpcore2.Response) -> None:
    """Read what the server says, up to a bound; breaking off does not change its status."""
    num_bytes = 0
    with contextlib.suppress(TimeoutError, *FAILURES):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            async for piece in response.aiter_stream():
                num_bytes += len(piece)
                if num_bytes >= MAX_ANSWER_BYTES:
                    return
