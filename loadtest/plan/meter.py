"""What Serve's controller knows of a number in a replica: its mean over the look-back, a bit late.

The replica notes the number now and then and sends its notes of the look-back every second; the
controller takes their mean by time, and the last one to hold until now.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from loadtest.plan.clock import Clock


@dataclass(frozen=True)
class Pace:
    """Seconds between notes, between reports, and for which notes are kept."""

    record_s: float
    push_s: float
    look_back_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """Notes that have been sent: the first and the last one's time, and their sum by time."""

    first: float
    last: float
    value: float
    area: float

    @classmethod
    def of(cls, notes: list[tuple[float, float]]) -> "Report":
        """The report with these (time, value), at least one."""
        area = sum(value * (after - before) for (before, value), (after, _) in pairwise(notes))
        return cls(notes[0][0], *notes[-1], area)

    def mean(self, now: float) -> float:
        """The mean by time until now."""
        window_s = max(now - self.last, 1e-3)  # as Serve has it where clocks differ
        return (self.area + self.value * window_s) / (self.last + window_s - self.first)


class Meter:
    """Of one number."""

    def __init__(self, clock: Clock, pace: Pace, read: Callable[[], float]) -> None:
        self._clock = clock
        self._pace = pace
        self._read = read
        self._notes: list[tuple[float, float]] = []
        self._report: Report | None = None
        self._rhythms = (
            clock.every(pace.record_s, self._record, clock.now),
            clock.every(pace.push_s, self.push, clock.now + pace.push_s),
        )

    def mean(self) -> float | None:
        """What the controller takes the number for; None before the first report."""
        return None if self._report is None else self._report.mean(self._clock.now)

    def stop(self) -> None:
        """Note nothing more."""
        for rhythm in self._rhythms:
            rhythm.stop()

    def push(self) -> None:
        """Send what is noted."""
        start = self._clock.now - self._pace.look_back_s
        self._notes = [note for note in self._notes if note[0] > start]
        if self._notes:
            self._report = Report.of(self._notes)

    def _record(self) -> None:
        self._notes.append((self._clock.now, self._read()))
