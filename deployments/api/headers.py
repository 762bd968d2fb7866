"""Request headers: the start timeout, the priority, the lifecycle of files, and the public URL."""

import math
import re
from collections.abc import Mapping

from fastapi import Request as HttpRequest
from pydantic import BaseModel, Field, ValidationError

from deployments.errors import BadRequest

YEAR_S = 365 * 24 * 3600.0
FOREVER_S = 10**11  # three thousand years; no larger number has to fit anywhere
PRIORITIES = {"normal": 0, "low": 1}  # the lower number runs first
HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
# Both mean the same; fal's clients send one of them, or both with the same value.
LIFECYCLE_HEADERS = ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference")


class Lifecycle(BaseModel):
    """The value of a lifecycle header; its access rules mean nothing here, as names are secret."""

    expiration_duration_seconds: int | None = Field(None, strict=True, ge=0)


def start_by(headers: Mapping[str, str], now: float) -> float:
    """The time by which the work must have begun, infinite without X-Fal-Request-Timeout.

    Raises:
        BadRequest: X-Fal-Request-Timeout is no positive number.
    """
    timeout_s = start_timeout_s(headers)
    return math.inf if timeout_s is None else now + timeout_s


def start_timeout_s(headers: Mapping[str, str]) -> float | None:
    """Seconds within which the work must begin, at most a year; None for no limit.

    Raises:
        BadRequest: X-Fal-Request-Timeout is no positive number.
    """
    timeout = headers.get("x-fal-request-timeout")
    return None if timeout is None else min(positive(timeout), YEAR_S)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadRequest("X-Fal-Request-Timeout must be a positive number of seconds.")
    return value


def priority(headers: Mapping[str, str]) -> int:
    """X-Fal-Queue-Priority as a number; an unknown word is `normal`."""
    return PRIORITIES.get(headers.get("x-fal-queue-priority", "").strip().lower(), 0)


def files_ttl_s(headers: Mapping[str, str]) -> float | None:
    """Seconds for which files are to be kept, infinite for ever; None for the usual time.

    Raises:
        BadRequest: a lifecycle header cannot be parsed.
    """
    name = next((name for name in LIFECYCLE_HEADERS if name in headers), None)
    if name is None:
        return None
    try:
        lifecycle = Lifecycle.model_validate_json(headers[name])
    except ValidationError:
        raise BadRequest(
            f"{name} must be JSON with expiration_duration_seconds, a whole number or null."
        ) from None
    if "expiration_duration_seconds" not in lifecycle.model_fields_set:
        return None
    seconds = lifecycle.expiration_duration_seconds or FOREVER_S  # 0 is for ever, as fal has it
    return math.inf if seconds >= FOREVER_S else float(seconds)


def base_url(request: HttpRequest, public_url: str | None) -> str:
    """The URL of this service as the caller sees it, without a slash at its end."""
    if public_url:
        return public_url.rstrip("/")
    scheme = forwarded(request.headers, "x-forwarded-proto")
    if scheme not in ("http", "https"):
        scheme = request.scope.get("scheme", "http")  # `request.url` has none without a Host
    return f"{scheme}://{host(request)}{request.scope.get('root_path', '')}"


def queue_url(request: HttpRequest, public_url: str | None) -> str:
    """The URL of the queue at the host that the caller used, without a slash at its end."""
    base = base_url(request, public_url)
    by_host = getattr(request.state, "is_queue_host", False) and not public_url
    return base if by_host else f"{base}/queue"


def host(request: HttpRequest) -> str:
    """The host and port that the caller named; what is no host name never reaches a URL."""
    named = forwarded(request.headers, "x-forwarded-host"), request.headers.get("host", "")
    found = next((name for name in named if HOST.fullmatch(name)), None)
    return found or ":".join(map(str, request.scope.get("server") or ("localhost",)))


def forwarded(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name, "").partition(",")[0].strip()
