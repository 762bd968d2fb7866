"""How fast a key may begin requests: the generic cell rate algorithm, without any state."""

NOTHING_S = 1e-6  # a wait that is only rounding


def pace(due: float, now: float, rate: float, burst: int) -> tuple[float, float]:
    """How long one more request must wait, in seconds, and the `due` to keep for the next one.

    `due` is when the key would have used up its pace, 0 for a new key; it is kept as it is
    when the request has to wait.
    """
    start = max(due, now)
    wait = start - (burst - 1) / rate - now
    if wait > NOTHING_S:
        return wait, due
    return 0.0, start + 1 / rate
