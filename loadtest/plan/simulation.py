"""The service in virtual time: queue, Dispatchers, replicas, nodes, and Serve's control loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from deployments.autoscaling import POLL_INTERVAL_S, BacklogReading, Observation
from loadtest.plan.clock import Clock
from loadtest.plan.cluster import Cluster, NodeType
from loadtest.plan.desk import Desk
from loadtest.plan.fleet import Fleet, Model
from loadtest.plan.meter import Pace
from loadtest.plan.request import Request
from loadtest.plan.scaling import Context, Policy, Scaler, Scaling

LOOP_S = 0.1  # of Serve's controller
SAMPLES = 600  # of the whole time
PATIENCE = 2  # how many times the arrivals' duration, and an hour, it goes on for those who wait

Look = Callable[[], Observation]
MakePolicy = Callable[[Look], Policy]


@dataclass(frozen=True)
class Box:
    """A box that is scaled: within which values, by whom, and how its numbers get about."""

    scaling: Scaling
    policy: MakePolicy
    pace: Pace


@dataclass(frozen=True)
class Service:
    """What is simulated.

    `window` is the most requests of one Dispatcher in the pipeline; `outside_s` what a request
    takes outside the model, half of it before.
    """

    inference: Box
    dispatcher: Box
    model: Model
    node: NodeType
    window: int
    outside_s: float


@dataclass(frozen=True, slots=True)
class Moment:
    """The service at a time: who waits, in the queue and in all, and what there is."""

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
    """How a simulation went; times in seconds, of GPUs and replicas all together."""

    requests: Sequence[Request]
    moments: list[Moment] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    ended_s: float = 0.0
    gpu_s: float = 0.0
    up_s: float = 0.0
    busy_s: float = 0.0
    row_s: float = 0.0


class News:
    """The reading on its way: a Dispatcher leaves it each second, the policy's watch fetches it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: tuple[int, BacklogReading] | None = None
        self._latest: tuple[tuple[int, BacklogReading] | None, float] = None, 0.0
        self._number = 0

    def leave(self, reading: BacklogReading) -> None:
        """Leave a reading where it can be fetched."""
        self._number += 1
        self._left = self._number, reading

    def fetch(self) -> None:
        """Fetch what was left."""
        if self._left != self._latest[0]:
            self._latest = self._left, self._clock.now

    def look(self) -> Observation:
        """What was fetched last, and how long ago it was new."""
        note, since = self._latest
        return Observation(note[1] if note else None, self._clock.now - since)


class Simulation:
    """One run; the same seed gives the same course. `requests` are in their order of arrival."""

    def __init__(
        self, service: Service, requests: Sequence[Request], duration_s: float, seed: int
    ) -> None:
        self._service = service
        self._requests = requests
        self._duration_s = duration_s
        self._course = Course(requests)
        self._left = len(requests)
        self._next = 0
        self._random = Random(seed)
        self._clock = clock = Clock()
        self._cluster = Cluster(clock, service.node)
        pace = service.inference.pace
        self._fleet = Fleet(
            clock,
            self._cluster,
            service.model,
            pace,
            self._random,
            answered=self._leave_model,
            ready=lambda: self._desk.claim(),
        )
        self._desk = Desk(
            clock,
            service.dispatcher.pace,
            service.window,
            is_open=lambda: self._fleet.num_up > 0,
            claimed=self._enter,
        )
        self._news = News(clock)
        self._inference = scaler(service.inference, self._news)
        self._dispatcher = scaler(service.dispatcher, self._news)

    def run(self) -> Course:
        """Until all is answered and the time is over; at the latest when patience is."""
        clock = self._clock
        self._fleet.begin(max(0, self._service.inference.scaling.min_replicas))
        self._desk.begin(max(1, self._service.dispatcher.scaling.min_replicas))
        self._set_rhythms()
        if self._requests:
            clock.at(self._requests[0].arrived, self._arrive)
        limit_s = PATIENCE * self._duration_s + 3600
        while clock.now < limit_s and (self._left or clock.now < self._duration_s):
            clock.step()
        return self._sum_up()

    def _set_rhythms(self) -> None:
        clock, phase = self._clock, self._random.random
        clock.every(POLL_INTERVAL_S, self._read, phase() * POLL_INTERVAL_S)
        clock.every(POLL_INTERVAL_S, self._news.fetch, phase() * POLL_INTERVAL_S)
        clock.every(LOOP_S, self._control, phase() * LOOP_S)
        clock.every(max(1.0, self._duration_s / SAMPLES), self._look_around, 0.0)

    def _read(self) -> None:
        if self._desk.num_up:
            self._news.leave(self._desk.read())

    def _arrive(self) -> None:
        request = self._requests[self._next]
        self._next += 1
        if self._next < len(self._requests):
            self._clock.at(self._requests[self._next].arrived, self._arrive)
        if request.is_queued:
            self._desk.submit(request)
        else:
            self._enter(request)

    def _enter(self, request: Request) -> None:
        """The way to the model."""
        self._clock.after(self._service.outside_s / 2, lambda: self._fleet.send(request))

    def _leave_model(self, request: Request) -> None:
        """The way from the model to the caller."""
        self._clock.after(self._service.outside_s / 2, lambda: self._answer(request))

    def _answer(self, request: Request) -> None:
        self._left -= 1
        if not request.has_failed:
            request.ended = self._clock.now
        if request.is_queued:
            self._desk.done(request)

    def _control(self) -> None:
        """What Serve's controller does ten times a second."""
        now, fleet, desk = self._clock.now, self._fleet, self._desk
        context = self._context(
            "Inference", fleet, fleet.num_requests, fleet.num_queued, fleet.reported
        )
        self._resize(self._inference.decide(context, now))
        context = self._context("Dispatcher", desk, 0.0, 0.0, desk.reported)
        desk.resize(self._dispatcher.decide(context, now))

    def _context(
        self,
        name: str,
        box: Fleet | Desk,
        requests: float,
        queued: float,
        reported: Mapping[str, Mapping[object, float]],
    ) -> Context:
        service = self._service
        scaled = service.inference if isinstance(box, Fleet) else service.dispatcher
        return Context(name, scaled.scaling, box.num_up, box.target, requests, queued, reported)

    def _resize(self, replicas: int) -> None:
        before = self._fleet.target
        if replicas != before:
            self._course.decisions.append(Decision(self._clock.now, before, replicas))
            self._fleet.resize(replicas)

    def _look_around(self) -> None:
        fleet, queued = self._fleet, self._desk.num_waiting
        moment = Moment(
            self._clock.now,
            queued,
            queued + fleet.num_waiting,
            fleet.target,
            fleet.num_up,
            self._cluster.count(),
        )
        self._course.moments.append(moment)

    def _sum_up(self) -> Course:
        self._look_around()
        course, replicas = self._course, self._fleet.replicas()
        course.ended_s = self._clock.now
        course.gpu_s = self._cluster.gpu_seconds(self._clock.now)
        course.up_s = self._fleet.up_seconds()
        course.busy_s = sum(replica.busy_s for replica in replicas)
        course.row_s = sum(replica.row_s for replica in replicas)
        return course


def scaler(box: Box, news: News) -> Scaler:
    """Serve around a box's policy."""
    return Scaler(box.scaling, box.policy(news.look))
