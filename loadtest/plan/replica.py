"""A replica of the model in virtual time: the sequences in its batch, and those that wait.

The engine's own scheduler decides who begins when. As in the engine on a CPU, the decoder stands
still while the encoder reads. Steps in which nothing changes are taken together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from deployments.florence.scheduler import Scheduler
from loadtest.plan.clock import Clock, Timer
from loadtest.plan.request import SimulatedRequest

EPSILON = 1e-9  # of a second or a step: sums of times are not exact


@dataclass(frozen=True)
class Speed:
    """Seconds of a decoder step, of each sequence in it, and of each image in the encoder."""

    step_s: float
    sequence_s: float
    image_s: float

    def step(self, num_sequences: int) -> float:
        return self.step_s + num_sequences * self.sequence_s

    def images_per_s(self, num_sequences: int, tokens: float) -> float:
        """Images a second of a replica whose batch is always full, with answers of one length."""
        return 1 / (self.image_s + tokens * self.step(num_sequences) / num_sequences)


@dataclass(frozen=True)
class EngineValues:
    """How the engine is set up: the settings `inference.*` of the same names."""

    max_batch_size: int
    prefill_batch_size: int
    max_wait_s: float
    turn_tokens: int


@dataclass(order=True, slots=True)
class SimulatedSequence:
    """A request in the replica: `left` steps are still to be taken, `ends` is the last one."""

    number: int
    request: SimulatedRequest = field(compare=False)
    arrived: float = field(compare=False)
    left: int = field(compare=False)
    num_tokens: float = field(compare=False, default=1.0)
    ends: int = field(compare=False, default=0)
    resumed_at: int = field(compare=False, default=0)
    is_read: bool = field(compare=False, default=False)


@dataclass(slots=True)
class Steps:
    """Some time in which nothing changes: a pass of the encoder, then `steps` alike."""

    began: float
    prefill_s: float
    step_s: float
    steps: int

    @property
    def ends(self) -> float:
        return self.began + self.prefill_s + self.steps * self.step_s

    def steps_until(self, now: float) -> int:
        return max(1, math.ceil((now - self.began - self.prefill_s) / self.step_s - EPSILON))


class SimulatedReplica:
    """Answers requests, each exactly once.

    Args:
        answered: takes each request at its end; one that has not begun at its deadline has failed.
    """

    def __init__(
        self,
        clock: Clock,
        speed: Speed,
        values: EngineValues,
        answered: Callable[[SimulatedRequest], None],
    ) -> None:
        self._clock = clock
        self._speed = speed
        self._values = values
        self._answered = answered
        self._scheduler: Scheduler[SimulatedSequence] = Scheduler(
            max_batch_size=values.max_batch_size,
            prefill_batch_size=min(values.prefill_batch_size, values.max_batch_size),
            max_wait_s=values.max_wait_s,
            max_queue=10**9,
            max_queue_tokens=math.inf,
        )
        self._numbers = count()
        self._running: list[SimulatedSequence] = []
        self._num_steps = 0
        self._possible_since: float | None = None
        self._under_way: Steps | None = None
        self._timer: Timer | None = None
        self.busy_s = 0.0
        self.sequence_s = 0.0  # seconds of all sequences together

    @property
    def num_ongoing(self) -> int:
        return len(self._scheduler) + len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that are not in the batch."""
        return len(self._scheduler)

    def add(self, request: SimulatedRequest) -> None:
        sequence = SimulatedSequence(next(self._numbers), request, self._clock.now, request.tokens)
        self._scheduler.add(sequence)
        if self._under_way is None:
            self._sleep()
        else:
            self._shorten(self._under_way)

    def _sleep(self) -> None:
        """With an empty batch, wait for others to begin with those that are there."""
        sleep_s = self._scheduler.sleep_s(self._clock.now)
        if self._timer is not None:
            self._timer.cancel()
        if sleep_s is not None:
            self._timer = self._clock.after(sleep_s + EPSILON, self._schedule_next)

    def _shorten(self, under_way: Steps) -> None:
        steps = under_way.steps_until(self._clock.now)
        if steps < under_way.steps:
            under_way.steps = steps
            self._await(under_way)

    def _await(self, under_way: Steps) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._under_way = under_way
        self._timer = self._clock.at(under_way.ends, self._advance)

    def _schedule_next(self) -> None:
        self._preempt()
        prefill_s = self._begin()
        if self._running:
            step_s = self._speed.step(len(self._running))
            steps = self._steps_ahead(prefill_s, step_s)
            self._await(Steps(self._clock.now, prefill_s, step_s, steps))
        else:
            self._under_way = None
            self._sleep()

    def _preempt(self) -> None:
        """A sequence that has used its `turn_tokens` goes behind those that wait."""
        if self._scheduler.blocked(len(self._running)) is None:
            return
        over = [
            sequence
            for sequence in self._running
            if self._quantum_ends(sequence) <= self._num_steps
        ]
        if over:
            sequence = max(
                over,
                key=lambda sequence: sequence.request.tokens - (sequence.ends - self._num_steps),
            )
            self._running.remove(sequence)
            sequence.left = sequence.ends - self._num_steps
            sequence.number = next(self._numbers)
            self._scheduler.add(sequence)

    def _begin(self) -> float:
        """Begin those whose time has come; the seconds that the encoder takes for them."""
        now = self._clock.now
        taken = self._scheduler.schedule(len(self._running), now)
        is_possible = len(self._scheduler) > 0 and len(self._running) < self._values.max_batch_size
        if taken or not is_possible:
            self._possible_since = None
        elif self._possible_since is None:
            self._possible_since = now
        new = 0
        for sequence in taken:
            if not sequence.request.has_begun and sequence.request.deadline <= now:
                sequence.request.has_failed = True
                self._answered(sequence.request)
                continue
            new += not sequence.is_read
            self._start(sequence)
        return new * self._speed.image_s

    def _start(self, sequence: SimulatedSequence) -> None:
        if not sequence.request.has_begun:
            sequence.request.began = self._clock.now
        sequence.is_read = True
        sequence.resumed_at = self._num_steps
        sequence.ends = self._num_steps + sequence.left
        self._running.append(sequence)

    def _quantum_ends(self, sequence: SimulatedSequence) -> int:
        return sequence.resumed_at + self._values.turn_tokens

    def _steps_ahead(self, prefill_s: float, step_s: float) -> int:
        """Steps until something changes, unless a request comes."""
        steps = min(sequence.ends for sequence in self._running) - self._num_steps
        if not len(self._scheduler):
            return steps
        if len(self._running) == self._values.max_batch_size:
            quantum = (
                min(self._quantum_ends(sequence) for sequence in self._running) - self._num_steps
            )
            return max(1, min(steps, quantum))
        if self._possible_since is None:  # more could begin at once than go to the encoder
            return 1
        left_s = self._possible_since + self._values.max_wait_s - self._clock.now - prefill_s
        return max(1, min(steps, math.ceil(left_s / step_s)))

    def _advance(self) -> None:
        under_way = self._under_way
        assert under_way is not None
        seconds = under_way.prefill_s + under_way.steps * under_way.step_s
        self.busy_s += seconds
        self.sequence_s += seconds * len(self._running)
        self._num_steps += under_way.steps
        done = [sequence for sequence in self._running if sequence.ends <= self._num_steps]
        if done:
            self._running = [
                sequence for sequence in self._running if sequence.ends > self._num_steps
            ]
            for sequence in done:
                self._answered(sequence.request)
        self._schedule_next()
