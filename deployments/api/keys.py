"""Who may call: an API key in the Authorization header, held here only as its hash."""

import hmac
from collections.abc import Iterable, Mapping

from deployments.errors import Unauthorized
from deployments.florence.tasks import APP
from deployments.settings import hash_key

SCHEMES = ("key", "bearer")
MISSING = (
    f"Cannot access application '{APP}'. Authentication is required to access this application."
)
MALFORMED = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
WRONG = "No user found for Key ID and Secret"


def authorize(headers: Mapping[str, str], hashes: Iterable[str]) -> None:
    """Let a caller through who holds a key.

    Raises:
        Unauthorized: there is no key, or none that we know.
    """
    offered = hash_key(key_in(headers)).encode()
    # All are compared before any is looked at: the time must not tell which one fitted.
    fits = [hmac.compare_digest(known.lower().encode(), offered) for known in hashes]
    if not any(fits):
        raise Unauthorized(WRONG)


def key_in(headers: Mapping[str, str]) -> str:
    """The key that the caller offers."""
    if "authorization" not in headers:
        raise Unauthorized(MISSING)
    scheme, _, key = headers["authorization"].strip().partition(" ")
    if scheme.lower() not in SCHEMES or not key.strip():
        raise Unauthorized(MALFORMED)
    return key.strip()
