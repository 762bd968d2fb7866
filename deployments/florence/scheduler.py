"""Which requests begin when: the engine's policy, without tensors, threads or clocks of its own.

A micro-batch goes through the encoder at once, so a few requests are begun together: as soon as
there are so many and so many free slots, or when the first has been able to for `patience_s`.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What the policy knows of a request; requests sort by who goes first."""

    @property
    def cost(self) -> float: ...

    @property
    def arrived(self) -> float: ...

    def __lt__(self, other: Any, /) -> bool: ...


E = TypeVar("E", bound=Waiting)


class Schedule(Generic[E]):
    """The requests that wait.

    Args:
        num_slots: most requests under way.
        micro_batch: most requests that begin together, at most `num_slots`.
        patience_s: how long a request waits for others to begin with it.
        max_waiting: most requests that wait.
        max_cost: most that all who wait may cost together, in the unit of their `cost`.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        micro_batch: int,
        patience_s: float,
        max_waiting: int,
        max_cost: float,
    ) -> None:
        self._num_slots = num_slots
        self._micro_batch = micro_batch
        self._patience_s = patience_s
        self._max_waiting = max_waiting
        self._max_cost = max_cost
        self._waiting: list[E] = []
        self._suspects: deque[E] = deque()
        self._is_alone = False
        self._possible_since: float | None = None
        self._reason = ""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    @property
    def reason(self) -> str:
        """Why those who were taken last began then.

        `full`: as many as may begin together; `waited`: fewer, whose patience was over;
        `joined`: fewer, beside others; `alone`: it is tried by itself after a failure.
        """
        return self._reason

    @property
    def cost(self) -> float:
        """What all who wait will cost."""
        return sum(entry.cost for entry in (*self._waiting, *self._suspects))

    def has_room(self, cost: float) -> bool:
        """Whether one more may wait; where nobody waits, any one may."""
        if not self._waiting:
            return True
        return len(self) < self._max_waiting and self.cost + cost <= self._max_cost

    def add(self, entry: E) -> None:
        """Let a request wait, behind those that sort before it."""
        insort(self._waiting, entry)

    def remove(self, entry: E) -> bool:
        """Forget a request that waits; False when it does not."""
        for line in (self._waiting, self._suspects):
            if entry in line:
                line.remove(entry)
                return True
        return False

    def take(self, num_running: int, now: float) -> list[E]:
        """Those that begin now, beside `num_running` others."""
        if num_running == 0:
            self._is_alone = False
        if self._suspects or self._is_alone:
            return self._suspect(num_running)
        count = min(self._num_slots - num_running, len(self._waiting), self._micro_batch)
        if count == 0:
            self._possible_since = None
            return []
        if count < self._micro_batch and self._may_wait(num_running, now) > 0:
            return []
        self._possible_since = None
        self._reason = self._reason_for(count, num_running)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def next_in_line(self, num_running: int) -> E | None:
        """The first of those for whom there is no slot."""
        is_blocked = self._waiting and num_running >= self._num_slots
        return self._waiting[0] if is_blocked and not self._suspects else None

    def pause_s(self, now: float) -> float | None:
        """How long an idle engine can sleep; None until something changes."""
        if self._suspects or len(self._waiting) >= self._micro_batch:
            return 0.0
        return max(0.0, self._may_wait(0, now)) if self._waiting else None

    def clear(self) -> Sequence[E]:
        """Everyone who waits, who then waits no more."""
        everyone = [*self._suspects, *self._waiting]
        self._suspects.clear()
        self._waiting = []
        return everyone

    def isolate(self, entries: Iterable[E]) -> None:
        """Begin each of these by itself: one of them makes what runs beside it fail."""
        self._suspects.extend(entries)

    def shrink(self, entries: Sequence[E]) -> bool:
        """Begin fewer at a time from now on, also these; False when they were no more than one."""
        if len(entries) <= 1:
            return False
        self._micro_batch = len(entries) // 2
        for entry in entries:
            self.add(entry)
        return True

    def _may_wait(self, num_running: int, now: float) -> float:
        """Seconds for which those who could begin may still wait for more.

        Beside others they could since there has been a slot, alone since the first came.
        """
        if num_running == 0:
            return self._waiting[0].arrived + self._patience_s - now
        if self._possible_since is None:
            self._possible_since = now
        return self._possible_since + self._patience_s - now

    def _suspect(self, num_running: int) -> list[E]:
        if num_running or not self._suspects:
            return []
        self._is_alone = True
        self._reason = "alone"
        return [self._suspects.popleft()]

    def _reason_for(self, count: int, num_running: int) -> str:
        if count == self._micro_batch:
            return "full"
        return "joined" if num_running else "waited"
