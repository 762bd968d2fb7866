"""Download a client's file from a URL without becoming the client's proxy into our network.

Every hop resolves its host once, refuses it unless all its addresses may be called, and connects
to an address that was checked, so a name that changes its mind between check and use gains
nothing.
TLS still names and verifies the host.
Nothing is shared between downloads: no pool, no cookies, no credentials, no proxy.
It does not know what the bytes are.
"""

import asyncio
import ssl
from collections.abc import Iterable

import httpcore2
import httpx2

from deployments.errors import FileDownloadError, FileTooLarge
from deployments.net.connect import GuardedBackend, Resolve, resolve_host
from deployments.net.failures import FAILURES, explain
from deployments.net.guard import AddressRefused, Guard
from deployments.net.url import CallRefused, core_url, host_of, parse_url
from deployments.settings import PreprocessSettings

HEADERS = (
    ("Accept", "image/*,*/*;q=0.8"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
    ("User-Agent", "florence-serve"),
)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Each piece of a body costs about 20 us, so 20 MB sent byte by byte would keep a core busy until
# the deadline; honest servers send at least some hundred bytes at a time.
MAX_PIECES = 50_000


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
        except (AddressRefused, CallRefused) as error:
            raise failure(str(error)) from None
        except FAILURES as error:
            raise failure(explain(error)) from None

    async def follow(self, url: httpx2.URL) -> bytes:
        for _ in range(self.settings.max_redirects + 1):
            answer = await self.visit(url)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise CallRefused(f"it was redirected more than {self.settings.max_redirects} times")

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


def redirect(url: httpx2.URL, location: str) -> httpx2.URL:
    """Where `url` sends us, checked like the URL of a client."""
    if "\\" in location:
        raise CallRefused("it was redirected to a URL with a backslash")
    target = parse_url(str(url.join(location)))
    if (url.scheme, target.scheme) == ("https", "http"):
        raise CallRefused("it was redirected from https to http")
    return target


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name; the last of several wins."""
    return {name.decode("ascii").lower(): value.decode("utf-8", "replace") for name, value in raw}


def check_answer(status: int, headers: dict[str, str], max_bytes: int) -> None:
    """Refuse an answer that is no plain file or says that it is too large."""
    if status != 200:
        raise CallRefused(f"the server answered {status}")
    # A compressed body could unfold to any size, and we asked for a plain one.
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise CallRefused("the server sent it compressed")
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
            raise CallRefused("the server sent it in too many pieces")
    return bytes(body)


def failure(reason: str) -> FileDownloadError:
    return FileDownloadError(f"Failed to download the file: {reason}.")


def too_large(max_bytes: int) -> FileTooLarge:
    return FileTooLarge(f"The file is larger than {max_bytes} bytes.", max_size=max_bytes)
