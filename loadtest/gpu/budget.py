"""A time for all measurements, and what did not fit into it."""

import time


class Budget:
    """So many seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds
        self.skipped: list[str] = []

    @property
    def left_s(self) -> float:
        """Seconds that are left, zero when it is used up."""
        return max(0.0, self._end - time.perf_counter())

    def allows(self, name: str, seconds: float = 0.0) -> bool:
        """Whether something that takes so long still fits; if not, it is noted."""
        if self.left_s > seconds:
            return True
        self.skipped.append(name)
        return False
