"""What browsers may do from another origin.

Keys travel in a header and never in a cookie, so any origin may call by default.
"""

from collections.abc import Mapping, Sequence

METHODS = "GET, HEAD, POST, PUT, OPTIONS"
ACCEPTED = (
    "authorization, content-type, accept, cache-control, range, x-fal-target-url, "
    "x-fal-queue-priority, x-fal-request-timeout, x-fal-runner-hint, x-fal-object-lifecycle, "
    "x-fal-object-lifecycle-preference, x-fal-store-io, x-fal-no-retry, x-fal-retry-config, "
    "x-fal-tags, x-fal-file-name, x-app-fal-disable-fallback, idempotency-key"
)
EXPOSED = (
    "x-fal-request-id, x-fal-request-timeout-type, x-fal-error-type, x-fal-needs-retry, "
    "etag, retry-after, server-timing, idempotent-replayed"
)
MAX_AGE_S = 600
# Pictures are public to whoever knows the name, and public keys to everybody: so on any page.
PUBLIC = ("/cdn/files/", "/.well-known/", "/rest/.well-known/")


def headers_for(path: str, origin: str | None, origins: Sequence[str]) -> dict[str, str]:
    """The headers of every response, also of one that refuses."""
    exposed = {"access-control-expose-headers": EXPOSED}
    if "*" in origins or path.startswith(PUBLIC):
        return exposed | {"access-control-allow-origin": "*"}
    if origin in origins:
        return exposed | {"access-control-allow-origin": str(origin), "vary": "Origin"}
    return {"vary": "Origin"}


def preflight_headers(asked: Mapping[str, str]) -> dict[str, str]:
    """The answer to a browser that asks what it may send."""
    return {
        "allow": METHODS,
        "access-control-allow-methods": METHODS,
        "access-control-allow-headers": asked.get("access-control-request-headers", ACCEPTED),
        "access-control-max-age": str(MAX_AGE_S),
    }
