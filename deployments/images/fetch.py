"""Download a client's file from a URL without becoming the client's proxy into our network.

Every hop resolves its host once, refuses it unless all its addresses may be called, and connects
to an address that was checked, so a name that changes its mind between check and use gains
nothing.
TLS still names and verifies the host.
Nothing is shared between downloads: no pool, no cookies, no credentials, no proxy.
It does not know what the bytes are.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address

import anyio
import httpcore2
import httpx2

from deployments.errors import FileDownloadError, FileTooLarge
from deployments.images.addresses import Address, AddressRefused, Guard
from deployments.settings import PreprocessSettings

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

HEADERS = (
    ("Accept", "image/*,*/*;q=0.8"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
    ("User-Agent", "florence-serve"),
)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_ADDRESSES = 4  # tried in turn, each with its share of the time to connect
# Each piece of a body costs about 20 us, so 20 MB sent byte by byte would keep a core busy until
# the deadline; honest servers send at least some hundred bytes at a time.
MAX_PIECES = 50_000


class DownloadRefused(Exception):
    """The download ends here; the message is half a sentence that a client may read."""


# The first row that fits says what the client reads; the exceptions' own words stay inside.
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpx2.InvalidURL, "the URL is not valid"),
    (UnicodeError, "the host name is not valid"),
    (ValueError, "the URL is not valid"),
    (socket.gaierror, "the host has no public address"),
    (httpcore2.ConnectTimeout, "the host did not answer in time"),
    (httpcore2.ConnectError, "the host could not be reached"),
    (httpcore2.ProtocolError, "the server broke off or did not speak proper HTTP"),
    (httpcore2.NetworkError, "the connection broke"),
    (httpcore2.TimeoutException, "the server was too slow"),
    (anyio.BrokenResourceError, "the connection broke"),
    (OSError, "the connection broke"),
)
FAILURES = tuple(kind for kind, _ in REASONS)


class Fetcher:
    """Downloads files within the limits of `settings`."""

    def __init__(
        self,
        settings: PreprocessSettings,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare to download.

        `resolve` turns a host into addresses, the system's resolver by default.
        `ssl_context` holds the trusted authorities: the system's by default, or those in
        SSL_CERT_FILE, which an operator behind a private authority sets.

        Raises:
            SetupError: an entry of `allowed_hosts` cannot be read.
        """
        self.settings = settings
        self.ssl_context = ssl_context or httpcore2.default_ssl_context()
        self.backend = GuardedBackend(
            Guard(settings.allowed_ports, settings.allowed_hosts), resolve or resolve_host
        )

    async def fetch(self, url: str) -> bytes:
        """The bytes at `url`, which may be any bytes.

        Raises:
            FileDownloadError: the URL is refused, or the download failed or took too long.
            FileTooLarge: the file has more than `max_bytes`; ctx holds `max_size`.
        """
        try:
            async with asyncio.timeout(self.settings.fetch_timeout_s):
                return await self.follow(parse_url(url))
        except TimeoutError:
            seconds = f"{self.settings.fetch_timeout_s:g} seconds"
            raise failure(f"it took longer than {seconds}") from None
        except (AddressRefused, DownloadRefused) as error:
            raise failure(str(error)) from None
        except FAILURES as error:
            raise failure(explain(error)) from None

    async def follow(self, url: httpx2.URL) -> bytes:
        for _ in range(self.settings.max_redirects + 1):
            answer = await self.visit(url)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise DownloadRefused(f"it was redirected more than {self.settings.max_redirects} times")

    async def visit(self, url: httpx2.URL) -> bytes | httpx2.URL:
        """One hop: the body, or where the server sends us next."""
        async with (
            httpcore2.AsyncConnectionPool(self.ssl_context, network_backend=self.backend) as pool,
            pool.stream(
                "GET",
                core_url(url),
                headers=[("Host", url.netloc.decode("ascii")), *HEADERS],
                extensions={
                    "timeout": {"connect": self.settings.connect_timeout_s},
                    "sni_hostname": host_of(url).removesuffix("."),
                },
            ) as response,
        ):
            headers = read_headers(response.headers)
            if response.status in REDIRECTS and "location" in headers:
                return redirect(url, headers["location"])
            check_answer(response.status, headers, self.settings.max_bytes)
            return await read_body(response, self.settings.max_bytes)


class GuardedBackend(httpcore2.AnyIOBackend):
    """Opens connections to checked addresses only."""

    def __init__(self, guard: Guard, resolve: Resolve) -> None:
        self.guard = guard
        self.resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109, the backend's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve once, check every address, connect to the first that answers.

        Raises:
            AddressRefused: an address may not be called.
            httpcore2.ConnectError: no address answers.
            httpcore2.ConnectTimeout: the last address tried did not answer in time.
        """
        addresses = await self.resolve(host, port)
        self.guard.check(host, port, addresses)
        *first, last = [str(address) for address in addresses[:MAX_ADDRESSES]]
        share = None if timeout is None else timeout / (len(first) + 1)
        for address in first:
            try:
                return await super().connect_tcp(address, port, share)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await super().connect_tcp(last, port, share)


async def resolve_host(host: str, port: int) -> list[Address]:
    """Every address of `host` in the system's order of preference."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found))


def parse_url(text: str) -> httpx2.URL:
    """An absolute http or https URL without tricks.

    Raises:
        httpx2.InvalidURL: it is no URL, or holds control characters.
        DownloadRefused: it is a URL, but not one that we fetch.
    """
    # Browsers read a backslash as a slash, parsers do not: they would disagree about the host.
    if "\\" in text:
        raise DownloadRefused("the URL contains a backslash")
    url = httpx2.URL(text)
    if url.scheme not in ("http", "https"):
        raise DownloadRefused("only http and https URLs are fetched")
    if url.userinfo:
        raise DownloadRefused("the URL contains a user name or a password")
    if not url.raw_host or not 1 <= port_of(url) <= 65535:
        raise DownloadRefused("the URL is not valid")
    return url


def redirect(url: httpx2.URL, location: str) -> httpx2.URL:
    """Where `url` sends us, checked like the URL of a client."""
    if "\\" in location:
        raise DownloadRefused("it was redirected to a URL with a backslash")
    target = parse_url(str(url.join(location)))
    if (url.scheme, target.scheme) == ("https", "http"):
        raise DownloadRefused("it was redirected from https to http")
    return target


def core_url(url: httpx2.URL) -> httpcore2.URL:
    return httpcore2.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=port_of(url), target=url.raw_path
    )


def host_of(url: httpx2.URL) -> str:
    # Not `url.host`, which decodes internationalised names and raises on hostile ones.
    return url.raw_host.decode("ascii")


def port_of(url: httpx2.URL) -> int:
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name; the last of several wins."""
    return {name.decode("ascii").lower(): value.decode("utf-8", "replace") for name, value in raw}


def check_answer(status: int, headers: dict[str, str], max_bytes: int) -> None:
    """Refuse an answer that is no plain file or says that it is too large."""
    if status != 200:
        raise DownloadRefused(f"the server answered {status}")
    # A compressed body could unfold to any size, and we asked for a plain one.
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise DownloadRefused("the server sent it compressed")
    if int(headers.get("content-length", "0")) > max_bytes:
        raise too_large(max_bytes)


async def read_body(response: httpcore2.Response, max_bytes: int) -> bytes:
    """The body, counted as it comes, because a declared length may be a lie."""
    body, num_pieces = bytearray(), 0
    async for piece in response.aiter_stream():
        body += piece
        num_pieces += 1
        if len(body) > max_bytes:
            raise too_large(max_bytes)
        if num_pieces > MAX_PIECES:
            raise DownloadRefused("the server sent it in too many pieces")
    return bytes(body)


def explain(error: BaseException) -> str:
    if error.args and isinstance(error.args[0], ssl.SSLError):
        return "the server's certificate or its TLS is not valid"
    return next(reason for kind, reason in REASONS if isinstance(error, kind))


def failure(reason: str) -> FileDownloadError:
    return FileDownloadError(f"Failed to download the file: {reason}.")


def too_large(max_bytes: int) -> FileTooLarge:
    return FileTooLarge(f"The file is larger than {max_bytes} bytes.", max_size=max_bytes)
