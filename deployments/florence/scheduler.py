"""Which sequences begin when: the engine's policy, without tensors, threads or a clock of its own.

Some sequences go through the encoder together, so a few begin at once: as soon as there are
`prefill_batch_size` of them and as many free places, or when the first could have begun for
`max_wait_s`.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

FIRST_GUESS = 64.0  # tokens
SMOOTHING = 0.95
GROW_AFTER = 64  # prefill batches: a try that fails costs little of what they have cost


class Waiting(Protocol):
    """What the policy knows of a sequence; sequences sort by which one goes first."""

    @property
    def num_tokens(self) -> float: ...

    @property
    def arrived(self) -> float: ...

    def __lt__(self, other: Any, /) -> bool: ...


S = TypeVar("S", bound=Waiting)


class Scheduler(Generic[S]):
    """The sequences that wait.

    Args:
        max_batch_size: most sequences that run.
        prefill_batch_size: most that begin together, at most `max_batch_size`.
        max_wait_s: how long a sequence waits for others to begin with it.
        max_queue: most sequences that wait.
        max_queue_tokens: most `num_tokens` of all that wait.
    """

    def __init__(
        self,
        *,
        max_batch_size: int,
        prefill_batch_size: int,
        max_wait_s: float,
        max_queue: int,
        max_queue_tokens: float,
    ) -> None:
        self._max_batch_size = max_batch_size
        self._prefill_batch_size = prefill_batch_size
        self._most_prefilled = prefill_batch_size
        self._num_full = 0  # prefill batches, since fewer begin together than may
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._max_queue_tokens = max_queue_tokens
        self._waiting: list[S] = []
        self._suspects: deque[S] = deque()
        self._is_isolating = False
        self._startable_since: float | None = None
        self._reason = ""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    @property
    def reason(self) -> str:
        """Why the sequences that were scheduled last began then.

        `full`: as many as may begin together; `waited`: fewer, after `max_wait_s`;
        `joined`: fewer, into a batch that runs; `alone`: one by itself, after a failure.
        """
        return self._reason

    @property
    def num_tokens(self) -> float:
        """Tokens of all that wait."""
        return sum(sequence.num_tokens for sequence in (*self._waiting, *self._suspects))

    def can_add(self, num_tokens: float) -> bool:
        """Whether one more may wait; into an empty queue any one may come."""
        if not self._waiting:
            return True
        is_short = self.num_tokens + num_tokens <= self._max_queue_tokens
        return is_short and len(self) < self._max_queue

    def add(self, sequence: S) -> None:
        """Let a sequence wait, behind those that sort before it."""
        insort(self._waiting, sequence)

    def remove(self, sequence: S) -> bool:
        """Take a sequence out of the queue; False when it is not there."""
        for queue in (self._waiting, self._suspects):
            if sequence in queue:
                queue.remove(sequence)
                return True
        return False

    def schedule(self, num_running: int, now: float) -> list[S]:
        """The sequences that begin now, while `num_running` run."""
        if num_running == 0:
            self._is_isolating = False
        if self._suspects or self._is_isolating:
            return self._isolated(num_running)
        num_free = self._max_batch_size - num_running
        count = min(num_free, len(self._waiting), self._prefill_batch_size)
        if count == 0:
            self._startable_since = None
            return []
        if count < self._prefill_batch_size and self._wait_left_s(num_running, now) > 0:
            return []
        self._startable_since = None
        self._reason = self._reason_for(count, num_running)
        self._grow()
        scheduled, self._waiting = self._waiting[:count], self._waiting[count:]
        return scheduled

    def blocked(self, num_running: int) -> S | None:
        """The first sequence that waits because the batch is full."""
        is_blocked = self._waiting and num_running >= self._max_batch_size
        return self._waiting[0] if is_blocked and not self._suspects else None

    def sleep_s(self, now: float) -> float | None:
        """How long an idle engine can sleep; None until something changes."""
        if self._suspects or len(self._waiting) >= self._prefill_batch_size:
            return 0.0
        return max(0.0, self._wait_left_s(0, now)) if self._waiting else None

    def clear(self) -> list[S]:
        """All that wait, which then wait no more."""
        everything = [*self._suspects, *self._waiting]
        self._suspects.clear()
        self._waiting = []
        return everything

    def isolate(self, sequences: Iterable[S]) -> None:
        """Run each of these alone: one of them makes its whole batch fail."""
        self._suspects.extend(sequences)

    def shrink(self, sequences: list[S]) -> bool:
        """Begin fewer at a time for a while, also these; False when there is only one."""
        if len(sequences) <= 1:
            return False
        self._prefill_batch_size = len(sequences) // 2
        self._num_full = 0
        for sequence in sequences:
            self.add(sequence)
        return True

    def _grow(self) -> None:
        """Begin more together again, when as many as now have begun often enough."""
        if self._reason != "full" or self._prefill_batch_size == self._most_prefilled:
            return
        self._num_full += 1
        if self._num_full == GROW_AFTER:
            self._num_full = 0
            self._prefill_batch_size = min(2 * self._prefill_batch_size, self._most_prefilled)

    def _wait_left_s(self, num_running: int, now: float) -> float:
        """How long those that could begin may still wait for more.

        Into a running batch they could since there has been a free place, else since the first
        came.
        """
        if num_running == 0:
            return self._waiting[0].arrived + self._max_wait_s - now
        if self._startable_since is None:
            self._startable_since = now
        return self._startable_since + self._max_wait_s - now

    def _isolated(self, num_running: int) -> list[S]:
        if num_running or not self._suspects:
            return []
        self._is_isolating = True
        self._reason = "alone"
        return [self._suspects.popleft()]

    def _reason_for(self, count: int, num_running: int) -> str:
        if count == self._prefill_batch_size:
            return "full"
        return "joined" if num_running else "waited"


class LengthForecast:
    """How many tokens the next answer will have: a moving mean for each task."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def num_tokens(self, task: str) -> float:
        """Tokens that an answer to `task` will probably have."""
        return self._means.get(task, FIRST_GUESS)

    def add(self, task: str, num_tokens: int) -> None:
        mean = self.num_tokens(task)
        self._means[task] = SMOOTHING * mean + (1 - SMOOTHING) * num_tokens
