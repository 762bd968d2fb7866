"""What the request headers order: by when, how urgently, and which address its caller sees."""

import math
import re
from collections.abc import Mapping

from fastapi import Request as HttpRequest

from deployments.errors import BadRequest

YEAR_S = 365 * 24 * 3600.0
PRIORITIES = {"normal": 0, "low": 1}  # the lower number runs first
HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


def start_by(headers: Mapping[str, str], now: float) -> float:
    """When the caller's patience to see the run begin ends.

    Raises:
        BadRequest: X-Fal-Request-Timeout is no positive number.
    """
    timeout_s = start_timeout_s(headers)
    return math.inf if timeout_s is None else now + timeout_s


def start_timeout_s(headers: Mapping[str, str]) -> float | None:
    """How long the caller waits for the work to begin; a year is as good as for ever.

    Raises:
        BadRequest: X-Fal-Request-Timeout is no positive number.
    """
    timeout = headers.get("x-fal-request-timeout")
    return None if timeout is None else min(seconds(timeout), YEAR_S)


def seconds(timeout: str) -> float:
    """The positive, finite number in `timeout`."""
    try:
        value = float(timeout)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadRequest("X-Fal-Request-Timeout must be a positive number of seconds.")
    return value


def priority(headers: Mapping[str, str]) -> int:
    """The run's place among others; a word that is not known is as good as none."""
    return PRIORITIES.get(headers.get("x-fal-queue-priority", "").strip().lower(), 0)


def base_url(request: HttpRequest, public_url: str | None) -> str:
    """The address of this service as its caller sees it, without a slash at its end."""
    if public_url:
        return public_url.rstrip("/")
    scheme = forwarded(request.headers, "x-forwarded-proto")
    if scheme not in ("http", "https"):
        scheme = request.scope.get("scheme", "http")  # `request.url` has none without a Host
    return f"{scheme}://{host(request)}{request.scope.get('root_path', '')}"


def queue_url(request: HttpRequest, public_url: str | None) -> str:
    """The address of the queue by the door that its caller took, without a slash at its end."""
    base = base_url(request, public_url)
    by_host = getattr(request.state, "is_queue_host", False) and not public_url
    return base if by_host else f"{base}/queue"


def host(request: HttpRequest) -> str:
    """The host and port that the caller named; what is no host name never reaches a URL."""
    named = forwarded(request.headers, "x-forwarded-host"), request.headers.get("host", "")
    found = next((name for name in named if HOST.fullmatch(name)), None)
    return found or ":".join(map(str, request.scope.get("server") or ("localhost",)))


def forwarded(headers: Mapping[str, str], name: str) -> str:
    """What the first proxy on the way has seen."""
    return headers.get(name, "").partition(",")[0].strip()
