"""The durable queue and the Dispatchers that claim from it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from deployments.autoscaling import MAX_COUNTED, ONGOING, BacklogReading
from loadtest.plan.clock import Clock
from loadtest.plan.meter import Meter, Pace
from loadtest.plan.request import Request

START_S = 5.0  # of a Dispatcher, on a node that is there


@dataclass(eq=False)
class Dispatcher:
    """One replica: how many requests it has in the pipeline."""

    meter: Meter | None = None
    running: int = 0


class Desk:
    """Claims requests in their order, while there is room and somebody to work on them.

    Args:
        window: most requests of one Dispatcher in the pipeline.
        is_open: whether there is a replica of the model; nothing is claimed for none.
        claimed: takes each request that was claimed.
    """

    def __init__(
        self,
        clock: Clock,
        pace: Pace,
        window: int,
        is_open: Callable[[], bool],
        claimed: Callable[[Request], None],
    ) -> None:
        self._clock = clock
        self._pace = pace
        self._window = window
        self._is_open = is_open
        self._claimed = claimed
        self._backlog: deque[Request] = deque()
        self._dispatchers: list[Dispatcher] = []
        self._holders: dict[Request, Dispatcher] = {}
        self.target = 0

    @property
    def num_up(self) -> int:
        """Dispatchers that claim."""
        return len(self._dispatchers)

    @property
    def num_running(self) -> int:
        """Requests that are claimed and not done."""
        return len(self._holders)

    @property
    def num_waiting(self) -> int:
        """Requests that nobody has claimed."""
        return len(self._backlog)

    @property
    def reported(self) -> dict[str, dict[object, float]]:
        """What the Dispatchers report of themselves, as Serve hands it to their policy."""
        means = {d: d.meter.mean() for d in self._dispatchers if d.meter is not None}
        known: dict[object, float] = {d: mean for d, mean in means.items() if mean is not None}
        return {ONGOING: known} if known else {}

    def begin(self, dispatchers: int) -> None:
        """Have so many, which are there already."""
        self.target = dispatchers
        for _ in range(dispatchers):
            self._arrive()

    def resize(self, dispatchers: int) -> None:
        """Start those that are missing after a while, stop those that are too many."""
        for _ in range(dispatchers - self.target):
            self._clock.after(START_S, self._arrive)
        self.target = dispatchers
        while len(self._dispatchers) > self.target:
            gone = self._dispatchers.pop()
            if gone.meter is not None:
                gone.meter.stop()

    def submit(self, request: Request) -> None:
        """Put a request into the queue."""
        self._backlog.append(request)
        self.claim()

    def done(self, request: Request) -> None:
        """A claimed request has its answer."""
        self._holders.pop(request).running -= 1
        self.claim()

    def claim(self) -> None:
        """Claim as many as there is room for."""
        while self._backlog and self._is_open():
            free = min(self._dispatchers, key=lambda d: d.running, default=None)
            if free is None or free.running >= self._window:
                return
            request = self._backlog.popleft()
            free.running += 1
            self._holders[request] = free
            self._claimed(request)

    def read(self) -> BacklogReading:
        """What waits, as a Dispatcher reads it."""
        oldest_s = self._clock.now - self._backlog[0].arrived if self._backlog else 0.0
        return BacklogReading(min(len(self._backlog), MAX_COUNTED), oldest_s)

    def _arrive(self) -> None:
        if len(self._dispatchers) < self.target:
            dispatcher = Dispatcher()
            dispatcher.meter = Meter(self._clock, self._pace, lambda: dispatcher.running)
            self._dispatchers.append(dispatcher)
            self.claim()
