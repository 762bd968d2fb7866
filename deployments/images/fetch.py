"""Downloads a client's file from a URL, and follows redirects; it does not know what the bytes are.

Every hop is a call of its own to a checked address, see net/guarded_client.py.
"""

import ssl
from collections.abc import Iterable

import httpcore2
import httpx2

from deployments.errors import FileDownloadError, FileTooLarge
from deployments.net.connect import Resolve
from deployments.net.guard import CallRefused
from deployments.net.guarded_client import CallFailed, HostNotFound, HttpClient, parse_url
from deployments.settings import PreprocessSettings

HEADERS = {"Accept": "image/*,*/*;q=0.8"}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Each piece of a body costs about 20 us, so 20 MB sent byte by byte would keep a core busy until
# the deadline; honest servers send at least some hundred bytes at a time.
MAX_PIECES = 50_000


class Fetcher:
    """Downloads files within the limits of `settings`; the other arguments as of HttpClient."""

    def __init__(
        self,
        settings: PreprocessSettings,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._client = HttpClient(
            settings.allowed_ports,
            settings.allowed_hosts,
            settings.fetch_timeout_s,
            settings.connect_timeout_s,
            resolve,
            ssl_context,
        )

    async def fetch(self, url: str) -> bytes:
        """The bytes at `url`, which may be any bytes.

        Raises:
            FileDownloadError: the URL is refused, or the download failed or took too long.
            FileTooLarge: the file has more than `max_bytes`; ctx holds `max_size`.
        """
        try:
            return await self._client.bounded(self._follow(url))
        except HostNotFound:  # what it says must not depend on names that are known inside alone
            raise failure("the host has no public address") from None
        except (CallRefused, CallFailed) as error:
            raise failure(str(error)) from None

    async def _follow(self, text: str) -> bytes:
        url = parse_url(text)
        for _ in range(self._settings.max_redirects + 1):
            answer = await self._get(url)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise CallRefused(f"it was redirected more than {self._settings.max_redirects} times")

    async def _get(self, url: httpx2.URL) -> bytes | httpx2.URL:
        """One hop: the body, or where the server sends us next."""
        async with self._client.request("GET", url, HEADERS) as response:
            headers = read_headers(response.headers)
            if response.status in REDIRECTS and "location" in headers:
                return redirect(url, headers["location"])
            check_answer(response.status, headers, self._settings.max_bytes)
            return await read_body(response, self._settings.max_bytes)


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
        raise FileTooLarge.of(max_bytes)


async def read_body(response: httpcore2.Response, max_bytes: int) -> bytes:
    """The body, counted as it comes, because a declared length may be a lie."""
    body, num_pieces = bytearray(), 0
    async for piece in response.aiter_stream():
        body += piece
        num_pieces += 1
        if len(body) > max_bytes:
            raise FileTooLarge.of(max_bytes)
        if num_pieces > MAX_PIECES:
            raise CallRefused("the server sent it in too many pieces")
    return bytes(body)


def failure(reason: str) -> FileDownloadError:
    return FileDownloadError(f"Failed to download the file: {reason}.")
