"""The service in virtual time: queue, Dispatchers, replicas, nodes, and Serve's control loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from deployments.autoscaling import POLL_INTERVAL_S, BacklogReading, Observation
from loadtest.plan.clock import Clock
from loadtest.plan.dispatchers import SimulatedQueue
from loadtest.plan.replicas import Nodes, ReplicaValues, SimulatedReplicas
from loadtest.plan.request import SimulatedRequest
from loadtest.plan.serve_scaling import (
    AutoscalingValues,
    PolicyContext,
    PolicyFunction,
    SimulatedScaler,
)

LOOP_S = 0.1  # of Serve's controller
NUM_SNAPSHOTS = 600  # of the whole time
EXTRA_S = 3600  # at most, after twice the time of the arrivals, for those that still wait

Observe = Callable[[], Observation]


@dataclass(frozen=True)
class ScaledDeployment:
    """A deployment that is scaled: within which values, and by which policy."""

    values: AutoscalingValues
    policy: Callable[[Observe], PolicyFunction]


@dataclass(frozen=True)
class SimulatedService:
    """What is simulated.

    `max_running` is the most requests of one Dispatcher in the pipeline; `outside_s` what a request
    takes outside the model, half of it before.
    """

    inference: ScaledDeployment
    dispatcher: ScaledDeployment
    replica: ReplicaValues
    node_start_s: float
    max_running: int
    outside_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The service at a time: requests that wait, in the queue and in all, and what there is."""

    at_s: float
    queued: int
    waiting: int
    target: int
    up: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Serve asks for more or fewer replicas of the model."""

    at_s: float
    before: int
    after: int


@dataclass
class Course:
    """How a simulation went; seconds of GPUs and replicas are those of all together."""

    requests: Sequence[SimulatedRequest]
    snapshots: list[Snapshot] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    ended_s: float = 0.0
    gpu_s: float = 0.0
    up_s: float = 0.0
    busy_s: float = 0.0
    sequence_s: float = 0.0


class PublishedBacklog:
    """A Dispatcher publishes a reading each second, and the policy's watcher polls it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._published: tuple[int, BacklogReading] | None = None
        self._polled: tuple[tuple[int, BacklogReading] | None, float] = None, 0.0
        self._serial = 0

    def publish(self, reading: BacklogReading) -> None:
        self._serial += 1
        self._published = self._serial, reading

    def poll(self) -> None:
        if self._published != self._polled[0]:
            self._polled = self._published, self._clock.now

    def observe(self) -> Observation:
        """What was polled last, and the time since it was new."""
        published, since = self._polled
        return Observation(published[1] if published else None, self._clock.now - since)


class Simulation:
    """One run; the same seed gives the same course. `requests` are in their order of arrival."""

    def __init__(
        self,
        service: SimulatedService,
        requests: Sequence[SimulatedRequest],
        duration_s: float,
        seed: int = 0,
    ) -> None:
        self._service = service
        self._requests = requests
        self._duration_s = duration_s
        self._course = Course(requests)
        self._num_left = len(requests)
        self._next = 0
        self._random = Random(seed)
        self._clock = clock = Clock()
        self._nodes = Nodes(clock, service.node_start_s)
        self._replicas = SimulatedReplicas(
            clock,
            self._nodes,
            service.replica,
            service.inference.values,
            self._random,
            answered=self._leave_model,
            ready=lambda: self._queue.claim(),
        )
        self._queue = SimulatedQueue(
            clock,
            service.dispatcher.values,
            service.max_running,
            is_ready=lambda: self._replicas.num_up > 0,
            claimed=self._enter,
        )
        self._backlog = PublishedBacklog(clock)
        self._inference, self._dispatcher = (
            SimulatedScaler(each.values, each.policy(self._backlog.observe))
            for each in (service.inference, service.dispatcher)
        )

    def run(self) -> Course:
        """Until all is answered and the time is over, or long after that."""
        clock, phase = self._clock, self._random.random
        clock.every(POLL_INTERVAL_S, self._publish, phase() * POLL_INTERVAL_S)
        clock.every(POLL_INTERVAL_S, self._backlog.poll, phase() * POLL_INTERVAL_S)
        clock.every(LOOP_S, self._control, phase() * LOOP_S)
        clock.every(max(1.0, self._duration_s / NUM_SNAPSHOTS), self._snapshot, 0.0)
        if self._requests:
            clock.at(self._requests[0].arrived, self._arrive)
        limit_s = 2 * self._duration_s + EXTRA_S
        while clock.now < limit_s and (self._num_left or clock.now < self._duration_s):
            clock.step()
        return self._sum_up()

    def _publish(self) -> None:
        if self._queue.num_up:
            self._backlog.publish(self._queue.read())

    def _arrive(self) -> None:
        request = self._requests[self._next]
        self._next += 1
        if self._next < len(self._requests):
            self._clock.at(self._requests[self._next].arrived, self._arrive)
        if request.is_queued:
            self._queue.submit(request)
        else:
            self._enter(request)

    def _enter(self, request: SimulatedRequest) -> None:
        self._clock.after(self._service.outside_s / 2, lambda: self._replicas.send(request))

    def _leave_model(self, request: SimulatedRequest) -> None:
        self._clock.after(self._service.outside_s / 2, lambda: self._answer(request))

    def _answer(self, request: SimulatedRequest) -> None:
        self._num_left -= 1
        if not request.has_failed:
            request.ended = self._clock.now
        if request.is_queued:
            self._queue.finish(request)

    def _control(self) -> None:
        """What Serve's controller does ten times a second."""
        now, replicas, queue = self._clock.now, self._replicas, self._queue
        context = PolicyContext(
            "Inference",
            self._service.inference.values,
            replicas.num_up,
            replicas.target,
            replicas.num_requests,
            replicas.num_queued,
            replicas.metrics,
        )
        wanted = self._inference.decide(context, now)
        if wanted != replicas.target:
            self._course.decisions.append(Decision(now, replicas.target, wanted))
            replicas.resize(wanted)
        values = self._service.dispatcher.values
        context = PolicyContext(
            "Dispatcher", values, queue.num_up, queue.target, 0.0, 0.0, queue.metrics
        )
        queue.resize(self._dispatcher.decide(context, now))

    def _snapshot(self) -> None:
        replicas, queued = self._replicas, self._queue.num_waiting
        snapshot = Snapshot(
            self._clock.now,
            queued,
            queued + replicas.num_waiting,
            replicas.target,
            replicas.num_up,
            self._nodes.count(),
        )
        self._course.snapshots.append(snapshot)

    def _sum_up(self) -> Course:
        self._snapshot()
        course, replicas = self._course, self._replicas.replicas()
        course.ended_s = self._clock.now
        course.gpu_s = self._nodes.gpu_seconds()
        course.up_s = self._replicas.up_seconds()
        course.busy_s = sum(replica.busy_s for replica in replicas)
        course.sequence_s = sum(replica.sequence_s for replica in replicas)
        return course
