"""An API key as the store knows it, what it may do, and what it has used."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key without its secret, of which only the SHA-256 is stored, in hex.

    `concurrency` bounds the requests that run at a time, queued and synchronous ones together;
    `rate` bounds the requests that begin per second; None is unbounded.
    Times are seconds since the epoch on the store's clock.
    """

    id: str
    hash: str
    name: str = ""
    concurrency: int | None = None
    rate: float | None = None
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_valid(self, now: float) -> bool:
        """Whether it opens the door at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one key has used at one endpoint on one day (UTC, `YYYY-MM-DD`)."""

    key_id: str
    day: str
    path: str
    requests: int = 0
    images: int = 0  # requests that ended with a result
    model_s: float = 0.0
