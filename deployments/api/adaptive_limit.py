"""How many runs may be under way, so that they wait at most twice as long as the model takes.

What a pipeline of several boxes can hold is not known beforehand: replicas come and go, answers
are short or long. So it is found out, as TCP does: a run more for each round in which nobody
waited long, a fifth fewer when they did.
"""

import time
from collections.abc import Callable

PATIENCE = 2.0  # waiting, in times of the model: random arrivals come in bursts
FLOOR_S = 0.25  # hops take so long on a busy machine, however few runs there are
SHRINK = 0.8
SMOOTHING = 0.1  # of the wait: about twenty runs count, for one alone may have had bad luck


class Window:
    """The bound on runs under way.

    Args:
        most: where it begins, and never more.
        least: never fewer; so many wait for the model alone, if at all.
    """

    def __init__(self, most: int, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._least = min(least, most)
        self._clock = clock
        self._size = float(most)
        self._wait_s = 0.0
        self._quiet_until = 0.0

    @property
    def size(self) -> int:
        """Runs that may be under way now."""
        return int(self._size)

    def note(self, num_running: int, wait_s: float, model_s: float) -> None:
        """Learn from a run that has ended: how long it waited, and how long the model took."""
        self._wait_s += SMOOTHING * (wait_s - self._wait_s)
        if self._wait_s > max(FLOOR_S, PATIENCE * model_s):
            self._shrink(num_running, wait_s + model_s)
        elif num_running >= self.size - 1:
            self._size = min(self._most, self._size + 1 / self._size)

    def _shrink(self, num_running: int, round_s: float) -> None:
        """Let fewer in, at most once in the time that it takes until that shows."""
        now = self._clock()
        if now < self._quiet_until:
            return
        self._size = max(self._least, SHRINK * min(self._size, num_running))
        self._quiet_until = now + round_s
