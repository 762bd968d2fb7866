"""How soon a place is free again, judged by the runs that have ended in this process."""

SMOOTHING = 0.1  # the last twenty runs or so count


class Drain:
    """A moving average of how long a run takes."""

    def __init__(self) -> None:
        self._average_s: float | None = None

    def observe(self, seconds: float) -> None:
        """Count a run that took so long."""
        average_s = seconds if self._average_s is None else self._average_s
        self._average_s = average_s + SMOOTHING * (seconds - average_s)

    def wait_s(self, num_places: int) -> float:
        """Seconds until one of `num_places` should be free that are all taken now."""
        return (self._average_s or 0.0) / num_places
