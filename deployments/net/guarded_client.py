"""A bounded HTTP client for URLs that clients name, which keeps out of the network around us.

Every call resolves its host once and connects to a checked address, so no redirect and no name
that changes leads inside. TLS still names and verifies the host.
Nothing is shared between calls: no pool, no cookies, no credentials, no proxy.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import TypeVar

import anyio
import httpcore2
import httpx2

from deployments.net.connect import GuardedBackend, Resolve, resolve_host
from deployments.net.guard import CallRefused, Guard
from deployments.settings import WebhookSettings

HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "florence-serve",
}
POST_CONNECT_TIMEOUT_S = 5.0
# An answer to a post is read to spare its server a broken connection, but not for long.
MAX_ANSWER_BYTES = 64 * 1024
ANSWER_TIMEOUT_S = 1.0

# The first row that fits says what the client reads; the exceptions' own words stay inside.
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpx2.InvalidURL, "the URL is not valid"),
    (UnicodeError, "the host name is not valid"),
    (ValueError, "the URL is not valid"),
    (socket.gaierror, "the host name could not be resolved"),
    (httpcore2.ConnectTimeout, "the host did not answer in time"),
    (httpcore2.ConnectError, "the host could not be reached"),
    (httpcore2.ProtocolError, "the server broke off or did not speak proper HTTP"),
    (httpcore2.NetworkError, "the connection broke"),
    (httpcore2.TimeoutException, "the server was too slow"),
    (anyio.BrokenResourceError, "the connection broke"),
    (OSError, "the connection broke"),
)
FAILURES = tuple(kind for kind, _ in REASONS)

T = TypeVar("T")


class CallFailed(Exception):
    """The call failed, and another one may not; the message is half a sentence."""


class HostNotFound(CallFailed):
    """No name server knows the host."""


class HttpClient:
    """Makes calls to hosts that are public, or allowed by the operator.

    Args:
        timeout_s: for one call of `bounded`, all its requests included.
        connect_timeout_s: to reach a host.
        resolve: turns a host into addresses; the system's resolver by default.
        ssl_context: holds the trusted authorities: the system's by default, or those in
            SSL_CERT_FILE, which an operator behind a private authority sets.

    Raises:
        SetupError: an entry of `allowed_hosts` cannot be read.
    """

    def __init__(
        self,
        allowed_ports: Sequence[int],
        allowed_hosts: Sequence[str],
        timeout_s: float,
        connect_timeout_s: float,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._ssl_context = ssl_context or httpcore2.default_ssl_context()
        self._backend = GuardedBackend(Guard(allowed_ports, allowed_hosts), resolve or resolve_host)

    async def bounded(self, work: Awaitable[T]) -> T:
        """The result of `work`, which may make several requests.

        Raises:
            CallRefused: a URL may not be called, now or later.
            CallFailed: a server was not reached, broke off, or took too long.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except TimeoutError:
            raise CallFailed(f"it took longer than {self._timeout_s:g} seconds") from None
        except UnicodeError as error:  # from the resolver, about the name
            raise CallRefused(explain(error)) from None
        except socket.gaierror as error:
            raise HostNotFound(explain(error)) from None
        except FAILURES as error:
            raise CallFailed(explain(error)) from None

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, url: httpx2.URL, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[httpcore2.Response]:
        """The response of one request, whose body is still to be read; redirects are responses."""
        host = {"Host": url.netloc.decode("ascii")}
        async with (
            httpcore2.AsyncConnectionPool(self._ssl_context, network_backend=self._backend) as pool,
            pool.stream(
                method,
                httpcore2.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=port_of(url), target=url.raw_path
                ),
                headers=list((host | HEADERS | dict(headers)).items()),
                content=body,
                extensions={
                    "timeout": {"connect": self._connect_timeout_s},
                    # Not `url.host`, which decodes international names and raises on hostile ones.
                    "sni_hostname": url.raw_host.decode("ascii").removesuffix("."),
                },
            ) as response,
        ):
            yield response


class Poster:
    """Posts JSON within the limits of `settings`; the other arguments as of HttpClient."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._client = HttpClient(
            settings.allowed_ports,
            settings.allowed_hosts,
            settings.timeout_s,
            POST_CONNECT_TIMEOUT_S,
            resolve,
            ssl_context,
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The HTTP status with which the server at `url` answers `body`, whichever it is.

        Raises:
            CallRefused: this URL may not be posted to, now or later.
            CallFailed: the server was not reached, broke off, or took too long.
        """
        return await self._client.bounded(self._post(url, body, headers))

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        content = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        async with self._client.request("POST", parse_url(url), content, body) as response:
            await discard(response)
            return int(response.status)


def parse_url(text: str) -> httpx2.URL:
    """An absolute http or https URL without tricks.

    Raises:
        CallRefused: it is no URL, or not one that we call.
    """
    # Browsers read a backslash as a slash, parsers do not: they would disagree about the host.
    if "\\" in text:
        raise CallRefused("the URL contains a backslash")
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise CallRefused(explain(error)) from None
    if url.scheme not in ("http", "https"):
        raise CallRefused("only http and https URLs are fetched")
    if url.userinfo:
        raise CallRefused("the URL contains a user name or a password")
    if not url.raw_host or not 1 <= port_of(url) <= 65535:
        raise CallRefused("the URL is not valid")
    return url


def port_of(url: httpx2.URL) -> int:
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def explain(error: BaseException) -> str:
    """Half a sentence that a client may read."""
    if error.args and isinstance(error.args[0], ssl.SSLError):
        return "the server's certificate or its TLS is not valid"
    return next(reason for kind, reason in REASONS if isinstance(error, kind))


async def discard(response: httpcore2.Response) -> None:
    """Read what the server answers, up to a bound; breaking off does not change its status."""
    num_bytes = 0
    with contextlib.suppress(TimeoutError, *FAILURES):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            async for piece in response.aiter_stream():
                num_bytes += len(piece)
                if num_bytes >= MAX_ANSWER_BYTES:
                    return
