"""A replica of the model in virtual time: its slots, and who waits for one.

Who begins when is decided by the engine's own `Scheduler`. As in the engine on a CPU, the decoder
stands still while the encoder reads. Steps in which nothing changes are taken together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from deployments.florence.scheduler import Scheduler
from loadtest.plan.clock import Clock, Timer
from loadtest.plan.request import Request
from loadtest.plan.speed import Speed

EPSILON = 1e-9  # of a second or a step: sums of times are not exact


@dataclass(frozen=True)
class Slots:
    """How the engine is set up: the settings `inference.*` of the same meaning."""

    max_batch_size: int
    prefill_batch_size: int
    max_wait_s: float
    turn_tokens: int


@dataclass(order=True, slots=True)
class Ticket:
    """A request in the replica. `left` steps are still to be taken, `ends` is the last one."""

    number: int
    request: Request = field(compare=False)
    arrived: float = field(compare=False)
    left: int = field(compare=False)
    num_tokens: float = field(compare=False, default=1.0)
    ends: int = field(compare=False, default=0)
    resumed_at: int = field(compare=False, default=0)
    is_read: bool = field(compare=False, default=False)


@dataclass(slots=True)
class Span:
    """Some time in which nothing changes: a pass of the encoder, then `steps` alike."""

    began: float
    prefill_s: float
    step_s: float
    steps: int

    @property
    def ends(self) -> float:
        """When the last of its steps is done."""
        return self.began + self.prefill_s + self.steps * self.step_s

    def steps_until(self, now: float) -> int:
        """Steps at whose end the engine looks around next."""
        return max(1, math.ceil((now - self.began - self.prefill_s) / self.step_s - EPSILON))


class Replica:
    """Answers requests, each exactly once.

    Args:
        answered: takes each request at its end; one that is late when its turn comes has failed.
    """

    def __init__(
        self, clock: Clock, speed: Speed, slots: Slots, answered: Callable[[Request], None]
    ) -> None:
        self._clock = clock
        self._speed = speed
        self._slots = slots
        self._answered = answered
        self._scheduler: Scheduler[Ticket] = Scheduler(
            max_batch_size=slots.max_batch_size,
            prefill_batch_size=min(slots.prefill_batch_size, slots.max_batch_size),
            max_wait_s=slots.max_wait_s,
            max_queue=10**9,
            max_queue_tokens=math.inf,
        )
        self._numbers = count()
        self._rows: list[Ticket] = []
        self._num_steps = 0
        self._possible_since: float | None = None
        self._span: Span | None = None
        self._timer: Timer | None = None
        self.busy_s = 0.0
        self.row_s = 0.0  # seconds of all rows together

    @property
    def num_ongoing(self) -> int:
        """Requests that wait or run."""
        return len(self._scheduler) + len(self._rows)

    @property
    def num_waiting(self) -> int:
        """Requests without a slot."""
        return len(self._scheduler)

    def add(self, request: Request) -> None:
        """Take a request."""
        ticket = Ticket(next(self._numbers), request, self._clock.now, request.tokens)
        self._scheduler.add(ticket)
        if self._span is None:
            self._sleep()
        else:
            self._cut(self._span)

    def _sleep(self) -> None:
        """With no row, wait for others to begin with those who are there."""
        pause_s = self._scheduler.sleep_s(self._clock.now)
        if self._timer is not None:
            self._timer.cancel()
        if pause_s is not None:
            self._timer = self._clock.after(pause_s + EPSILON, self._turn)

    def _cut(self, span: Span) -> None:
        """Look around at the end of the step that is under way."""
        steps = span.steps_until(self._clock.now)
        if steps < span.steps:
            span.steps = steps
            self._await(span)

    def _await(self, span: Span) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._span = span
        self._timer = self._clock.at(span.ends, self._advance)

    def _turn(self) -> None:
        """What the engine does between two steps."""
        self._make_room()
        prefill_s = self._begin()
        if self._rows:
            step_s = self._speed.step(len(self._rows))
            steps = self._steps_ahead(prefill_s, step_s)
            self._await(Span(self._clock.now, prefill_s, step_s, steps))
        else:
            self._span = None
            self._sleep()

    def _make_room(self) -> None:
        """Who has had its turn goes behind those who wait, the one longest at it first."""
        if self._scheduler.blocked(len(self._rows)) is None:
            return
        over = [row for row in self._rows if self._turn_ends(row) <= self._num_steps]
        if over:
            row = max(over, key=lambda row: row.request.tokens - (row.ends - self._num_steps))
            self._rows.remove(row)
            row.left = row.ends - self._num_steps
            row.number = next(self._numbers)
            self._scheduler.add(row)

    def _begin(self) -> float:
        """Let those begin whose time has come; the seconds that the encoder takes for them."""
        now = self._clock.now
        taken = self._scheduler.schedule(len(self._rows), now)
        is_possible = len(self._scheduler) > 0 and len(self._rows) < self._slots.max_batch_size
        if taken or not is_possible:
            self._possible_since = None
        elif self._possible_since is None:
            self._possible_since = now
        new = 0
        for ticket in taken:
            if not ticket.request.has_begun and ticket.request.deadline <= now:
                ticket.request.has_failed = True
                self._answered(ticket.request)
                continue
            new += not ticket.is_read
            self._seat(ticket)
        return self._speed.prefill(new) if new else 0.0

    def _seat(self, ticket: Ticket) -> None:
        if not ticket.request.has_begun:
            ticket.request.began = self._clock.now
        ticket.is_read = True
        ticket.resumed_at = self._num_steps
        ticket.ends = self._num_steps + ticket.left
        self._rows.append(ticket)

    def _turn_ends(self, row: Ticket) -> int:
        return row.resumed_at + self._slots.turn_tokens

    def _steps_ahead(self, prefill_s: float, step_s: float) -> int:
        """Steps until something changes, unless somebody comes."""
        steps = min(row.ends for row in self._rows) - self._num_steps
        if not len(self._scheduler):
            return steps
        if len(self._rows) == self._slots.max_batch_size:
            turn = min(self._turn_ends(row) for row in self._rows) - self._num_steps
            return max(1, min(steps, turn))
        if self._possible_since is None:  # more could begin at once than go to the encoder
            return 1
        left_s = self._possible_since + self._slots.max_wait_s - self._clock.now - prefill_s
        return max(1, min(steps, math.ceil(left_s / step_s)))

    def _advance(self) -> None:
        span = self._span
        assert span is not None
        seconds = span.prefill_s + span.steps * span.step_s
        self.busy_s += seconds
        self.row_s += seconds * len(self._rows)
        self._num_steps += span.steps
        done = [row for row in self._rows if row.ends <= self._num_steps]
        if done:
            self._rows = [row for row in self._rows if row.ends > self._num_steps]
            for row in done:
                self._answered(row.request)
        self._turn()
