"""What the request headers order: by when, how urgently, and which address its caller sees."""

import math
import re
from collections.abc import Mapping

from fastapi import Request

from deployments.errors import BadRequest

PRIORITIES = {"normal": 0, "low": 1}  # the lower number runs first
HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


def start_by(headers: Mapping[str, str], now: float) -> float:
    """When the caller's patience to see the run begin ends.

    Raises:
        BadRequest: X-Fal-Request-Timeout is no positive number.
    """
    timeout = headers.get("x-fal-request-timeout")
    return math.inf if timeout is None else now + seconds(timeout)


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


def base_url(request: Request, public_url: str | None) -> str:
    """The address of this service as its caller sees it, without a slash at its end."""
    if public_url:
        return public_url.rstrip("/")
    scheme = forwarded(request.headers, "x-forwarded-proto")
    if scheme not in ("http", "https"):
        scheme = request.url.scheme
    return f"{scheme}://{host(request)}{request.scope.get('root_path', '')}"


def host(request: Request) -> str:
    """The host and port that the caller named; what is no host name never reaches a URL."""
    named = forwarded(request.headers, "x-forwarded-host"), request.headers.get("host", "")
    found = next((name for name in named if HOST.fullmatch(name)), None)
    return found or ":".join(map(str, request.scope.get("server") or ("localhost",)))


def forwarded(headers: Mapping[str, str], name: str) -> str:
    """What the first proxy on the way has seen."""
    return headers.get(name, "").partition(",")[0].strip()
