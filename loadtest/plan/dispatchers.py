"""The durable queue and the Dispatchers that claim from it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from deployments.autoscaling import MAX_COUNTED, ONGOING, BacklogReading
from loadtest.plan.clock import Clock
from loadtest.plan.request import SimulatedRequest
from loadtest.plan.serve_scaling import AutoscalingValues, MetricMean, reported

START_S = 5.0  # of a Dispatcher, on a node that is there


@dataclass(eq=False)
class SimulatedDispatcher:
    """One replica: how many requests it has in the pipeline."""

    ongoing: MetricMean | None = None
    num_running: int = 0


class SimulatedQueue:
    """Claims requests in their order, while a Dispatcher may run more and the model is ready.

    Args:
        max_running: most requests of one Dispatcher in the pipeline.
        is_ready: whether there is a replica of the model; nothing is claimed without one.
        claimed: takes each request that was claimed.
    """

    def __init__(
        self,
        clock: Clock,
        values: AutoscalingValues,
        max_running: int,
        is_ready: Callable[[], bool],
        claimed: Callable[[SimulatedRequest], None],
    ) -> None:
        self._clock = clock
        self._values = values
        self._max_running = max_running
        self._is_ready = is_ready
        self._claimed = claimed
        self._waiting: deque[SimulatedRequest] = deque()
        self._dispatchers: list[SimulatedDispatcher] = []
        self._owners: dict[SimulatedRequest, SimulatedDispatcher] = {}
        self.target = values.bounded(1)
        for _ in range(self.target):
            self._arrive()

    @property
    def num_up(self) -> int:
        return len(self._dispatchers)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def metrics(self) -> dict[str, dict[object, float]]:
        """What the Dispatchers report of themselves, as Serve hands it to their policy."""
        known = reported({each: each.ongoing for each in self._dispatchers})
        return {ONGOING: known} if known else {}

    def resize(self, dispatchers: int) -> None:
        """Start those that are missing after a while, stop those that are too many."""
        for _ in range(dispatchers - self.target):
            self._clock.after(START_S, self._arrive)
        self.target = dispatchers
        while len(self._dispatchers) > self.target:
            stopped = self._dispatchers.pop()
            if stopped.ongoing is not None:
                stopped.ongoing.stop()

    def submit(self, request: SimulatedRequest) -> None:
        self._waiting.append(request)
        self.claim()

    def finish(self, request: SimulatedRequest) -> None:
        self._owners.pop(request).num_running -= 1
        self.claim()

    def claim(self) -> None:
        while self._waiting and self._is_ready():
            free = min(self._dispatchers, key=lambda d: d.num_running, default=None)
            if free is None or free.num_running >= self._max_running:
                return
            request = self._waiting.popleft()
            free.num_running += 1
            self._owners[request] = free
            self._claimed(request)

    def read(self) -> BacklogReading:
        oldest_s = self._clock.now - self._waiting[0].arrived if self._waiting else 0.0
        return BacklogReading(min(len(self._waiting), MAX_COUNTED), oldest_s)

    def _arrive(self) -> None:
        if len(self._dispatchers) < self.target:
            new = SimulatedDispatcher()
            new.ongoing = MetricMean(self._clock, self._values, lambda: new.num_running)
            self._dispatchers.append(new)
            self.claim()
