"""How many requests are sent at the same time: as many as the service takes.

Nobody tells a client its limits, so it begins with a few, sends more with each answer, and falls
back to what was accepted when one is refused. Then it tries one more from time to time.
"""

import threading
import time

FIRST = 4
PROBE_S, MAX_PROBE_S = 1.0, 30.0
AWAY_S = 60.0  # for which a service that has answered before may be away


class Pace:
    """The adaptive limit of all threads of a command; `most` is its upper bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = min(FIRST, most)
        self._running = 0
        self._round = 0  # of refusals; one that began before the last one says nothing new
        self._is_known = False  # whether anything was refused yet
        self._probe_s, self._probe_at = PROBE_S, 0.0
        self._last_answer: float | None = None
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many may be sent at the same time now."""
        return self._limit

    def begin(self) -> int:
        """Wait until a request may be sent; the number of this round."""
        with self._changed:
            self._changed.wait_for(lambda: self._running < self._limit)
            self._running += 1
            return self._round

    def answered(self) -> None:
        """A request was taken: more may be."""
        with self._changed:
            now = self._last_answer = time.monotonic()
            self._running -= 1
            if not self._is_known:
                self._limit = min(self._most, self._limit + 1)
            elif now >= self._probe_at and self._limit < self._most:
                self._limit += 1
                self._probe_at = now + self._probe_s
            self._changed.notify_all()

    def refused(self, round_: int) -> None:
        """A request was too much: no more than those that were taken may be sent."""
        with self._changed:
            now = self._last_answer = time.monotonic()
            self._running -= 1
            if round_ == self._round:
                self._round += 1
                if self._is_known:
                    self._probe_s = min(MAX_PROBE_S, 2 * self._probe_s)
                self._is_known = True
                self._limit = max(1, min(self._limit, self._running))
                self._probe_at = now + self._probe_s
            else:
                self._limit = max(1, min(self._limit, self._running))
            self._changed.notify_all()

    def lost(self) -> bool:
        """Nobody answered; whether to try again."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
            last = self._last_answer
            return last is not None and time.monotonic() - last < AWAY_S
