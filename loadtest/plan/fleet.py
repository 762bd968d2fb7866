"""The replicas of the model: started, given requests, stopped; and who finds no room in any."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from deployments.autoscaling import ONGOING
from loadtest.plan.clock import Clock, Timer
from loadtest.plan.cluster import Cluster, Node
from loadtest.plan.meter import Meter, Pace
from loadtest.plan.replica import Replica, Slots
from loadtest.plan.request import Request
from loadtest.plan.speed import Speed


@dataclass(frozen=True)
class Model:
    """A replica of the model: speed, slots, how long it loads, and what it is sent at most."""

    speed: Speed
    slots: Slots
    start_s: float
    max_ongoing: int


@dataclass(eq=False)
class Member:
    """A replica on a node; before it is up it has no meter."""

    replica: Replica
    node: Node
    start: Timer | None = None
    meter: Meter | None = None
    is_leaving: bool = False
    up_since: float = 0.0


class Fleet:
    """Takes requests and hands each to a replica that has room.

    Args:
        answered: takes each request at its end.
        ready: called when a replica is up.
    """

    def __init__(
        self,
        clock: Clock,
        cluster: Cluster,
        model: Model,
        pace: Pace,
        random: Random,
        answered: Callable[[Request], None],
        ready: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._cluster = cluster
        self._model = model
        self._pace = pace
        self._random = random
        self._answered = answered
        self._ready = ready
        self._coming: list[Member] = []
        self._up: list[Member] = []
        self._leaving: list[Member] = []
        self._past: list[Replica] = []
        self._past_up_s = 0.0
        self._unassigned: deque[Request] = deque()
        self._queued = Meter(clock, pace, lambda: len(self._unassigned))
        self._sent = Meter(clock, pace, lambda: sum(m.replica.num_ongoing for m in self._up))
        self.target = 0

    @property
    def num_up(self) -> int:
        """Replicas that take requests."""
        return len(self._up)

    @property
    def num_waiting(self) -> int:
        """Requests that were sent here and that the model has not begun with."""
        return len(self._unassigned) + sum(m.replica.num_waiting for m in self._up + self._leaving)

    @property
    def num_queued(self) -> float:
        """Requests without a replica, as Serve knows it."""
        return self._queued.mean() or 0.0

    @property
    def num_requests(self) -> float:
        """Requests without a replica and in one, as Serve counts them."""
        return self.num_queued + (self._sent.mean() or 0.0)

    @property
    def reported(self) -> dict[str, dict[object, float]]:
        """What the replicas report of themselves, as Serve hands it to the policy."""
        means = {m: m.meter.mean() for m in self._up if m.meter is not None}
        known: dict[object, float] = {m: mean for m, mean in means.items() if mean is not None}
        return {ONGOING: known} if known else {}

    def begin(self, replicas: int) -> None:
        """Have so many, which are up already."""
        self.target = replicas
        for _ in range(replicas):
            self._come_up(self._member(is_there=True))

    def resize(self, replicas: int) -> None:
        """Start those that are missing; stop those that are too many, the last ones first."""
        self.target = replicas
        missing = replicas - len(self._coming) - len(self._up)
        for _ in range(missing):
            self._start()
        for _ in range(-missing):
            self._stop()

    def send(self, request: Request) -> None:
        """Hand a request to the less loaded of two replicas; with no room in any, it waits."""
        if self._unassigned or not self._try(request):
            self._unassigned.append(request)
            if not self._up:
                self._queued.push()  # Serve's handles tell at once that nobody is there

    def up_seconds(self) -> float:
        """Seconds for which replicas were up, all together."""
        now = self._clock.now
        return self._past_up_s + sum(now - m.up_since for m in self._up + self._leaving)

    def replicas(self) -> list[Replica]:
        """All that there are and were."""
        return self._past + [m.replica for m in self._up + self._leaving]

    def _member(self, is_there: bool = False) -> Member:
        model = self._model
        member: Member

        def answered(request: Request) -> None:
            self._settle(member, request)

        replica = Replica(self._clock, model.speed, model.slots, answered)
        member = Member(replica, self._cluster.place(is_there))
        return member

    def _start(self) -> None:
        member = self._member()
        self._coming.append(member)
        up_at = max(self._clock.now, member.node.ready) + self._model.start_s
        member.start = self._clock.at(up_at, lambda: self._arrive(member))

    def _arrive(self, member: Member) -> None:
        self._coming.remove(member)
        self._come_up(member)
        self._assign()
        self._ready()

    def _come_up(self, member: Member) -> None:
        member.up_since = self._clock.now
        member.meter = Meter(self._clock, self._pace, lambda: member.replica.num_ongoing)
        self._up.append(member)

    def _stop(self) -> None:
        if self._coming:
            member = self._coming.pop()
            if member.start is not None:
                member.start.cancel()
            self._cluster.free(member.node)
        else:
            member = self._up.pop()
            member.is_leaving = True
            self._leaving.append(member)
            if member.meter is not None:
                member.meter.stop()
            self._let_go(member)

    def _settle(self, member: Member, request: Request) -> None:
        self._answered(request)
        # Not at once: the replica is between two steps.
        self._clock.after(
            0.0, lambda: self._let_go(member) if member.is_leaving else self._assign()
        )

    def _let_go(self, member: Member) -> None:
        """End a replica that is stopped and has nothing left."""
        if member.replica.num_ongoing == 0 and member in self._leaving:
            self._leaving.remove(member)
            self._past.append(member.replica)
            self._past_up_s += self._clock.now - member.up_since
            self._cluster.free(member.node)

    def _assign(self) -> None:
        while self._unassigned and self._try(self._unassigned[0]):
            self._unassigned.popleft()

    def _try(self, request: Request) -> bool:
        asked = self._up if len(self._up) <= 2 else self._random.sample(self._up, 2)
        if not asked:
            return False
        member = min(asked, key=lambda m: m.replica.num_ongoing)
        if member.replica.num_ongoing >= self._model.max_ongoing:
            member = min(self._up, key=lambda m: m.replica.num_ongoing)
        if member.replica.num_ongoing >= self._model.max_ongoing:
            return False
        member.replica.add(request)
        return True
