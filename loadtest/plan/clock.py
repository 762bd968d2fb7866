"""Virtual time: events in order, those of one moment in the order in which they were set."""

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Timer:
    __slots__ = ("action",)

    def __init__(self, action: Action) -> None:
        self.action: Action | None = action

    def cancel(self) -> None:
        self.action = None


class Clock:
    """The time of a simulation in seconds, and its events to come."""

    def __init__(self) -> None:
        self.now = 0.0
        self._coming: list[tuple[float, int, Timer]] = []
        self._numbers = count()

    def at(self, time_s: float, action: Action) -> Timer:
        """Call `action` at a time, or next when that is past."""
        timer = Timer(action)
        heapq.heappush(self._coming, (max(self.now, time_s), next(self._numbers), timer))
        return timer

    def after(self, seconds: float, action: Action) -> Timer:
        return self.at(self.now + seconds, action)

    def every(self, seconds: float, action: Action, first_s: float) -> "Repeated":
        """Call `action` at `first_s`, and again every so many seconds."""
        return Repeated(self, seconds, action, first_s)

    def step(self) -> None:
        self.now, _, timer = heapq.heappop(self._coming)
        if timer.action is not None:
            timer.action()


class Repeated:
    def __init__(self, clock: Clock, seconds: float, action: Action, first_s: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._action = action
        self._timer = clock.at(first_s, self._repeat)

    def stop(self) -> None:
        self._timer.cancel()

    def _repeat(self) -> None:
        self._timer = self._clock.after(self._seconds, self._repeat)
        self._action()
