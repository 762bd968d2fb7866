"""An API key as the store knows it, its limits, and what it has used."""

from dataclasses import dataclass

ROUNDING_S = 1e-6  # a wait that is only rounding


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key without its secret: only the SHA-256 of that is stored, in hex.

    `concurrency` bounds the requests that run at a time, queued and synchronous ones together;
    `rate` bounds the requests that begin per second; None is unbounded.
    `adapter` answers its requests unless they name another; empty for none.
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
    adapter: str = ""

    def is_valid(self, now: float) -> bool:
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


def rate_limit(due: float, now: float, rate: float, burst: int) -> tuple[float, float]:
    """The generic cell rate algorithm (GCRA): how long one more request must wait, in seconds.

    Also gives the `due` to keep for the next request: the time at which the key's requests are
    worked off at `rate` per second, 0 for a new key. It stays as it is for a request that waits.
    """
    start = max(due, now)
    wait = start - (burst - 1) / rate - now
    if wait > ROUNDING_S:
        return wait, due
    return 0.0, start + 1 / rate
