"""Which runs this process takes on: no more than get through soon, and of each key its share."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.api.adaptive_limit import Window
from deployments.api.retry_after import Drain
from deployments.errors import Overloaded
from deployments.telemetry.metrics import Recorder

ACTIVE_S = 1.0  # who has asked within this time has a share
COMMON = 0.75  # of the places: those that a key can have beyond its share


class Admission:
    """Lets runs in while there is a place for them.

    All keys that ask have equal shares of the places. What they do not use others may, but for a
    quarter of all: who has less than its share finds a place there, and so comes to its share.
    """

    def __init__(
        self,
        window: Window,
        recorder: Recorder,
        drain: Drain,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._recorder = recorder
        self._drain = drain
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._asked: dict[str, float] = {}
        self._refused: deque[float] = deque()
        self._tell()

    @property
    def num_running(self) -> int:
        """Runs that have a place."""
        return self._running.total()

    @contextmanager
    def admit(self, key: str) -> Iterator[None]:
        """Hold a place for a run of `key` for the time of the `with` block.

        Raises:
            Overloaded: there is none for it.
        """
        if not self._has_place(key):
            self._recorder.record("florence_ingress_key_refused_total", key=key, limit="share")
            raise Overloaded.after(self._wait_s())
        self._count(key, 1)
        try:
            yield
        finally:
            self._count(key, -1)

    def ended(self, wait_s: float, model_s: float) -> None:
        """Learn from a run that was answered, which still has its place."""
        self._window.note(self.num_running, wait_s, model_s)

    def _has_place(self, key: str) -> bool:
        places, share = self._window.size, self._window.size / self._num_active(key)
        if self._running[key] < share:
            return self.num_running < places
        return self.num_running < COMMON * places

    def _num_active(self, key: str) -> int:
        """Keys among whom the places are shared: `key`, and others that asked just now."""
        now = self._clock()
        self._asked.pop(key, None)
        self._asked[key] = now  # the dictionary is in the order of asking
        while now - next(iter(self._asked.values())) > ACTIVE_S:
            del self._asked[next(iter(self._asked))]
        return len(self._asked)

    def _wait_s(self) -> float:
        """Seconds until there should be a place, if those come again who were refused lately."""
        now = self._clock()
        while self._refused and now - self._refused[0] > ACTIVE_S:
            self._refused.popleft()
        self._refused.append(now)
        return len(self._refused) * self._drain.wait_s(self._window.size)

    def _count(self, key: str, change: int) -> None:
        self._running[key] += change
        if not self._running[key]:
            del self._running[key]
        self._tell()

    def _tell(self) -> None:
        self._recorder.record("florence_ingress_running", self.num_running)
        self._recorder.record("florence_ingress_places", self._window.size)
