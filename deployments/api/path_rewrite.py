"""The front doors of one host, each led to one path.

    /fal-ai/florence-2-large/...             → /run/fal-ai/florence-2-large/...
    /fal-ai/florence-2-large/requests/...    → /queue/fal-ai/florence-2-large/requests/...
    the same with a task before /requests    → the same
    /fal-ai/... at a host called queue.…     → /queue/fal-ai/...
    /api/fal/proxy with x-fal-target-url     → the prefix of the fal host in it, and its path
    any of them with a slash at the end      → without

The target URL is a label: it is never fetched.
Redirects would do the same, but not every client of fal follows them.
"""

import re
from urllib.parse import quote, unquote, urlsplit

from fastapi import Request as HttpRequest
from starlette.datastructures import Headers
from starlette.types import Scope

from deployments.api import headers as orders
from deployments.api.auth import Keyring
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
QUEUED = re.compile(rf"/{re.escape(APP)}(/[^/]+)?/requests/")
INVALID = (
    f"The header {TARGET} must hold the https URL of a fal endpoint: "
    f"one of the hosts {', '.join(PREFIXES)}."
)


async def enter(scope: Scope, keyring: Keyring) -> None:
    """Lead the request in `scope` to the path that the router knows.

    Notes in the scope's state whether it came by the name of the queue's host,
    so that the answer can lead its caller back by the same door.

    Raises:
        Unauthorized: the proxy was called without a key.
        BadRequest: the proxy was called without a target that it serves.
    """
    root = scope.get("root_path", "")
    path = trim(scope["path"].removeprefix(root))
    if path == PROXY:
        headers = Headers(scope=scope)
        await keyring.authorize(headers)
        path, scope["query_string"] = destination(headers.get(TARGET, ""))
    elif path.startswith(f"/{APP}/"):
        scope["state"]["is_queue_host"] = names_queue(orders.host(HttpRequest(scope)))
        path = prefix(path, scope["state"]["is_queue_host"]) + path
    scope["path"] = root + path
    scope["raw_path"] = quote(root + path).encode()


def names_queue(host: str) -> bool:
    """Whether a host is the queue's by its name, as queue.fal.run is."""
    return host.lower().startswith("queue.")


def prefix(path: str, is_queue_host: bool) -> str:
    """What a path below the application stands for: a run, or something about the queue."""
    return "/queue" if is_queue_host or QUEUED.match(path) else "/run"


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
