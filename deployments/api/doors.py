"""The front doors of one host, each led to one path.

    /fal-ai/florence-2-large/...             → /run/fal-ai/florence-2-large/...
    /api/fal/proxy with x-fal-target-url     → the prefix of the fal host in it, and its path
    any of them with a slash at the end      → without

The target URL is a label: it is never fetched.
Redirects would do the same, but not every client of fal follows them.
"""

from collections.abc import Sequence
from urllib.parse import quote, unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from deployments.api.keys import authorize
from deployments.errors import BadRequest
from deployments.florence.tasks import APP

PROXY = "/api/fal/proxy"
TARGET = "x-fal-target-url"
PREFIXES = {
    "fal.run": "/run",
    "queue.fal.run": "/queue",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",
}
INVALID = (
    f"The header {TARGET} must hold the https URL of a fal endpoint: "
    f"one of the hosts {', '.join(PREFIXES)}."
)


def enter(scope: Scope, hashes: Sequence[str]) -> None:
    """Lead the request in `scope` to the path that the router knows.

    Raises:
        Unauthorized: the proxy was called without a key.
        BadRequest: the proxy was called without a target that it serves.
    """
    root = scope.get("root_path", "")
    path = trim(scope["path"].removeprefix(root))
    if path == PROXY:
        headers = Headers(scope=scope)
        authorize(headers, hashes)
        path, scope["query_string"] = destination(headers.get(TARGET, ""))
    if path.startswith(f"/{APP}/"):
        path = f"/run{path}"
    scope["path"] = root + path
    scope["raw_path"] = quote(root + path).encode()


def destination(target: str) -> tuple[str, bytes]:
    """The path and the query here of the fal URL `target`."""
    try:
        url = urlsplit(target)
    except ValueError:
        raise BadRequest(INVALID) from None
    if url.scheme not in ("https", "http") or url.hostname not in PREFIXES:
        raise BadRequest(INVALID)
    return trim(PREFIXES[url.hostname] + unquote(url.path)), url.query.encode("latin-1")


def trim(path: str) -> str:
    """`path` without a slash at its end."""
    return path.rstrip("/") or "/"
