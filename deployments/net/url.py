"""URLs that clients give us to call, without tricks."""

import httpcore2
import httpx2


class CallRefused(Exception):
    """The call ends here; the message is half a sentence that a client may read."""


def parse_url(text: str) -> httpx2.URL:
    """An absolute http or https URL without tricks.

    Raises:
        httpx2.InvalidURL: it is no URL, or holds control characters.
        CallRefused: it is a URL, but not one that we call.
    """
    # Browsers read a backslash as a slash, parsers do not: they would disagree about the host.
    if "\\" in text:
        raise CallRefused("the URL contains a backslash")
    url = httpx2.URL(text)
    if url.scheme not in ("http", "https"):
        raise CallRefused("only http and https URLs are fetched")
    if url.userinfo:
        raise CallRefused("the URL contains a user name or a password")
    if not url.raw_host or not 1 <= port_of(url) <= 65535:
        raise CallRefused("the URL is not valid")
    return url


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
