"""The replicas of the model and their nodes, and the requests without a replica."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random

from deployments.autoscaling import ONGOING
from loadtest.plan.clock import Clock, Timer
from loadtest.plan.replica import EngineValues, SimulatedReplica, Speed
from loadtest.plan.request import SimulatedRequest
from loadtest.plan.serve_scaling import AutoscalingValues, MetricMean, reported

IDLE_S = 60.0  # how long an unused node is kept: KubeRay's default


@dataclass(eq=False, slots=True)
class Node:
    """A node with one GPU, paid from when it was asked for."""

    asked: float
    ready: float
    ended: float = inf
    is_used: bool = True
    num_releases: int = 0


class Nodes:
    """As many nodes as are asked for; each takes `start_s` to come."""

    def __init__(self, clock: Clock, start_s: float) -> None:
        self._clock = clock
        self._start_s = start_s
        self._nodes: list[Node] = []

    def take(self, is_there: bool = False) -> Node:
        """A free node, or a new one, which takes its time unless `is_there`."""
        for node in self._nodes:
            if node.ended == inf and not node.is_used:
                node.is_used = True
                return node
        now = self._clock.now
        node = Node(now, now if is_there else now + self._start_s)
        self._nodes.append(node)
        return node

    def release(self, node: Node) -> None:
        """Give a node back; unused, it ends after its idle time."""
        node.is_used = False
        node.num_releases += 1
        release = node.num_releases
        idle_from = max(self._clock.now, node.ready)
        self._clock.at(idle_from + IDLE_S, lambda: self._end(node, release))

    def count(self) -> int:
        return sum(node.ended == inf for node in self._nodes)

    def gpu_seconds(self) -> float:
        """Seconds of all GPUs that are to be paid until now."""
        return sum(min(self._clock.now, node.ended) - node.asked for node in self._nodes)

    def _end(self, node: Node, release: int) -> None:
        if not node.is_used and node.num_releases == release:
            node.ended = self._clock.now


@dataclass(frozen=True)
class ReplicaValues:
    """A replica: speed, engine, how long it loads, and the most requests it is sent."""

    speed: Speed
    engine: EngineValues
    start_s: float
    max_ongoing: int


@dataclass(eq=False)
class Placed:
    """A replica on a node; `ongoing` is None until it is up."""

    replica: SimulatedReplica
    node: Node
    start: Timer | None = None
    ongoing: MetricMean | None = None
    is_stopping: bool = False
    up_since: float = 0.0


class SimulatedReplicas:
    """Takes requests and sends each to a replica that may take one more.

    Args:
        answered: takes each request at its end.
        ready: called when a replica is up.
    """

    def __init__(
        self,
        clock: Clock,
        nodes: Nodes,
        model: ReplicaValues,
        values: AutoscalingValues,
        random: Random,
        answered: Callable[[SimulatedRequest], None],
        ready: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._nodes = nodes
        self._model = model
        self._values = values
        self._random = random
        self._answered = answered
        self._ready = ready
        self._coming: list[Placed] = []
        self._up: list[Placed] = []
        self._stopping: list[Placed] = []
        self._stopped: list[SimulatedReplica] = []
        self._stopped_up_s = 0.0
        self._unassigned: deque[SimulatedRequest] = deque()
        self._queued = MetricMean(clock, values, lambda: len(self._unassigned))
        self._sent = MetricMean(clock, values, lambda: sum(p.replica.num_ongoing for p in self._up))
        self.target = max(0, values.min_replicas)
        for _ in range(self.target):
            self._come_up(self._placed(is_there=True))

    @property
    def num_up(self) -> int:
        return len(self._up)

    @property
    def num_waiting(self) -> int:
        """Requests that were sent here and that the model has not begun with."""
        placed = sum(p.replica.num_waiting for p in self._up + self._stopping)
        return len(self._unassigned) + placed

    @property
    def num_queued(self) -> float:
        return self._queued.mean() or 0.0

    @property
    def num_requests(self) -> float:
        """Requests without a replica and in one, as Serve counts them."""
        return self.num_queued + (self._sent.mean() or 0.0)

    @property
    def metrics(self) -> dict[str, dict[object, float]]:
        """What the replicas report of themselves, as Serve hands it to the policy."""
        known = reported({each: each.ongoing for each in self._up})
        return {ONGOING: known} if known else {}

    def resize(self, replicas: int) -> None:
        """Start those that are missing; stop those that are too many, the last ones first."""
        self.target = replicas
        missing = replicas - len(self._coming) - len(self._up)
        for _ in range(missing):
            self._start()
        for _ in range(-missing):
            self._stop()

    def send(self, request: SimulatedRequest) -> None:
        """Send a request to the less loaded of two replicas; it waits when none may take it."""
        if self._unassigned or not self._try(request):
            self._unassigned.append(request)
            if not self._up:
                self._queued.push()  # Serve's handles report at once that there is no replica

    def up_seconds(self) -> float:
        now = self._clock.now
        return self._stopped_up_s + sum(now - p.up_since for p in self._up + self._stopping)

    def replicas(self) -> list[SimulatedReplica]:
        return self._stopped + [p.replica for p in self._up + self._stopping]

    def _placed(self, is_there: bool = False) -> Placed:
        model = self._model
        placed: Placed

        def answered(request: SimulatedRequest) -> None:
            self._answered(request)
            # Not at once: the replica is between two steps.
            settle = self._end_if_idle if placed.is_stopping else self._assign
            self._clock.after(0.0, lambda: settle(placed))

        replica = SimulatedReplica(self._clock, model.speed, model.engine, answered)
        placed = Placed(replica, self._nodes.take(is_there))
        return placed

    def _start(self) -> None:
        placed = self._placed()
        self._coming.append(placed)
        up_at = max(self._clock.now, placed.node.ready) + self._model.start_s
        placed.start = self._clock.at(up_at, lambda: self._arrive(placed))

    def _arrive(self, placed: Placed) -> None:
        self._coming.remove(placed)
        self._come_up(placed)
        self._assign()
        self._ready()

    def _come_up(self, placed: Placed) -> None:
        placed.up_since = self._clock.now
        read = lambda: placed.replica.num_ongoing  # noqa: E731
        placed.ongoing = MetricMean(self._clock, self._values, read)
        self._up.append(placed)

    def _stop(self) -> None:
        if self._coming:
            placed = self._coming.pop()
            if placed.start is not None:
                placed.start.cancel()
            self._nodes.release(placed.node)
            return
        placed = self._up.pop()
        placed.is_stopping = True
        self._stopping.append(placed)
        if placed.ongoing is not None:
            placed.ongoing.stop()
        self._end_if_idle(placed)

    def _end_if_idle(self, placed: Placed) -> None:
        if placed.replica.num_ongoing == 0 and placed in self._stopping:
            self._stopping.remove(placed)
            self._stopped.append(placed.replica)
            self._stopped_up_s += self._clock.now - placed.up_since
            self._nodes.release(placed.node)

    def _assign(self, _: Placed | None = None) -> None:
        while self._unassigned and self._try(self._unassigned[0]):
            self._unassigned.popleft()

    def _try(self, request: SimulatedRequest) -> bool:
        asked = self._up if len(self._up) <= 2 else self._random.sample(self._up, 2)
        if not asked:
            return False
        placed = min(asked, key=lambda p: p.replica.num_ongoing)
        if placed.replica.num_ongoing >= self._model.max_ongoing:
            placed = min(self._up, key=lambda p: p.replica.num_ongoing)
        if placed.replica.num_ongoing >= self._model.max_ongoing:
            return False
        placed.replica.add(request)
        return True
