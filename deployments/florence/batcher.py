"""Takes sequences from callers to a backend and the tokens back, on one engine thread.

It knows neither tensors nor HTTP. A sequence whose caller leaves is dropped at the next step.
When a step fails, its sequences run again one by one, so that only the one that makes it fail
gets the error. When the backend fails on its own example too, no sequence is to blame: the engine
stops, and all that it holds can be tried elsewhere.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import InvalidStateError
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from math import inf
from typing import Self

from deployments.errors import EngineStopped, InternalError, Overloaded, RequestTimeout
from deployments.florence.backend import Backend, DeviceFault
from deployments.florence.scheduler import Scheduler
from deployments.florence.sequence import Progress, Sequence, Sequences, Tokens
from deployments.telemetry.log import logger

PROGRESS_STEPS = 4  # steps between two reports of progress: a box has four location tokens
SMOOTHING = 0.9
REASONS = ("full", "joined", "waited", "alone")  # why a batch began, see Scheduler.reason


@dataclass
class Counters:
    """What the engine has done, in numbers that only grow.

    Its thread adds to them between two steps, where a metric would cost more than a step of a
    small batch. `sequences` are those of all steps added up; `batches` are those that began, by
    reason.
    """

    steps: int = 0
    sequences: int = 0
    busy_s: float = 0.0
    batches: Mapping[str, int] = field(default_factory=dict)

    def count_step(self, num_sequences: int) -> None:
        self.steps += 1
        self.sequences += num_sequences

    def count_batch(self, reason: str) -> None:
        self.batches = Counter(self.batches) + Counter([reason])  # a new one: others may be reading

    def since(self, before: Self) -> "Counters":
        """What has been added since `before` was copied."""
        return Counters(
            self.steps - before.steps,
            self.sequences - before.sequences,
            self.busy_s - before.busy_s,
            {each: self.batches.get(each, 0) - before.batches.get(each, 0) for each in REASONS},
        )


class Batcher:
    """Answers each sequence exactly once.

    Args:
        backend: used on the engine thread only.
        max_wait_s: how long a sequence waits for others to begin with it.
        max_queue: most sequences that wait.
        max_queue_tokens: most `num_tokens` of all that wait.
        turn_tokens: tokens after which a sequence may be preempted while others wait.
        prepare: called once on the engine thread, before any work.
        on_failure: called on the engine thread when it stops by itself, before callers hear of it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_wait_s: float,
        max_queue: int,
        max_queue_tokens: float = inf,
        turn_tokens: float = inf,
        prepare: Callable[[], None] | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self._backend = backend
        self._prepare = prepare
        self._on_failure = on_failure
        self._failure = ""
        self._scheduler: Scheduler[Sequence] = Scheduler(
            max_batch_size=backend.max_batch_size,
            prefill_batch_size=backend.prefill_batch_size,
            max_wait_s=max_wait_s,
            max_queue=max_queue,
            max_queue_tokens=max_queue_tokens,
        )
        self._turn_tokens = turn_tokens
        self._running: list[Sequence] = []
        self._preempted: set[Sequence] = set()
        self._changed = threading.Condition()
        self._numbers = count()
        self._counters = Counters()
        self._busy_since: float | None = None
        self._seconds_per_token = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="inference-engine", daemon=True)
        self._thread.start()

    async def submit(
        self, sequence: Sequence, on_progress: Callable[[Progress], None] | None = None
    ) -> Tokens:
        """The tokens of `sequence`, which then knows how long it waited and ran.

        Args:
            on_progress: called on this event loop with the tokens so far, now and then.

        Raises:
            Overloaded: too much is waiting.
            StartTimeout, RequestTimeout: its time was over before it could begin.
            RequestTimeout: its deadline passed while it ran.
            EngineStopped: for no fault of the sequence's own that is known.
            Exception: what the backend raised for this sequence alone.
        """
        loop = asyncio.get_running_loop()
        sequence.on_progress = on_progress and partial(call_on, loop, on_progress)
        self._enqueue(sequence)
        left_s = min(sequence.left_s(time.time()), threading.TIMEOUT_MAX)
        timer = loop.call_later(max(0.0, left_s), self._expire, sequence)
        try:
            return await asyncio.wrap_future(sequence.future)
        finally:
            timer.cancel()
            sequence.future.cancel()
            self._dequeue(sequence)

    @property
    def counters(self) -> Counters:
        return copy(self._counters)

    @property
    def max_batch_size(self) -> int:
        return self._backend.max_batch_size

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that have not begun, or are preempted."""
        with self._changed:
            return len(self._scheduler)

    @property
    def num_ongoing(self) -> int:
        """Sequences that wait or run."""
        with self._changed:
            return len(self._scheduler) + len(self._running)

    def check(self, stall_timeout_s: float) -> None:
        """Do nothing while the engine lives.

        Raises:
            EngineStopped: it has stopped, with the reason.
            InternalError: one step takes longer than `stall_timeout_s`.
        """
        if self._closed:
            raise EngineStopped(f"The engine has stopped: {self._failure or 'it was closed'}")
        since = self._busy_since
        if since is not None and time.perf_counter() - since > stall_timeout_s:
            raise InternalError(f"One step of the model takes longer than {stall_timeout_s} s.")

    def close(self) -> None:
        """Stop the engine thread after its current step; what has not ended gets an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.number = next(self._numbers)
        sequence.arrived = time.perf_counter()
        with self._changed:
            if self._closed:
                raise EngineStopped()
            if not self._scheduler.can_add(sequence.num_tokens):
                raise Overloaded.after(self._scheduler.num_tokens * self._seconds_per_token)
            self._scheduler.add(sequence)
            self._changed.notify_all()

    def _dequeue(self, sequence: Sequence) -> bool:
        """Take a sequence out of the queue; False when it has left already."""
        with self._changed:
            was_there = self._scheduler.remove(sequence)
            if was_there:
                self._changed.notify_all()  # the backend may keep it preempted
            return was_there

    def _expire(self, sequence: Sequence) -> None:
        if sequence.began and time.time() < sequence.deadline:
            return  # it waits to begin again
        if self._dequeue(sequence):
            refuse(sequence, sequence.expired(time.time()) or RequestTimeout())

    def _run(self) -> None:
        try:
            if self._prepare is not None:
                self._prepare()
            while self._wait_for_work():
                self._iterate()
        except BaseException as error:  # whatever it is, this thread ends with it
            self._failure = described(error)
            logger.critical("the engine has stopped: %s", self._failure, exc_info=error)
            if self._on_failure is not None:  # before callers try again, and come here
                self._on_failure()
        finally:
            self._refuse_all()

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; False when the batcher is closed."""
        with self._changed:
            if not self._running and not self._closed and not any(self._unwanted()):
                self._changed.wait(self._scheduler.sleep_s(time.perf_counter()))
            return not self._closed

    def _iterate(self) -> None:
        """One step of the batch, with the sequences that join it, without those that left."""
        began = self._busy_since = time.perf_counter()
        try:
            self._drop_unwanted()
            self._preempt()
            self._begin(self._schedule())
            if self._running:
                self._step()
                self._counters.busy_s += time.perf_counter() - began
        finally:
            self._busy_since = None

    def _drop_unwanted(self) -> None:
        for sequence in list(self._unwanted()):
            self._backend.drop(sequence)
            self._dequeue(sequence)
            self._forget(sequence)
            refuse(sequence, RequestTimeout())

    def _unwanted(self) -> Iterator[Sequence]:
        known = chain(self._running, self._preempted)
        return (sequence for sequence in known if not sequence.is_wanted())

    def _forget(self, sequence: Sequence) -> None:
        self._preempted.discard(sequence)
        if sequence in self._running:
            self._running.remove(sequence)

    def _preempt(self) -> None:
        """Let one sequence give up its place, where another waits for one."""
        with self._changed:
            blocked = self._scheduler.blocked(len(self._running))
        sequence = blocked and self._preemptible(blocked.priority)
        if sequence and self._backend.preempt(sequence):
            self._running.remove(sequence)
            self._preempted.add(sequence)
            sequence.number = next(self._numbers)
            with self._changed:
                self._scheduler.add(sequence)

    def _preemptible(self, priority: int) -> Sequence | None:
        """The sequence with the most steps, among those beyond their quantum and no more urgent."""
        over = [
            sequence
            for sequence in self._running
            if sequence.num_steps - sequence.resumed_at >= self._turn_tokens
            and sequence.priority >= priority
        ]
        return max(over, key=lambda sequence: sequence.num_steps, default=None)

    def _schedule(self) -> list[Sequence]:
        with self._changed:
            scheduled = self._scheduler.schedule(len(self._running), time.perf_counter())
            reason = self._scheduler.reason
        in_time = without_expired(scheduled)
        if in_time:
            self._counters.count_batch(reason)
        return in_time

    def _begin(self, sequences: list[Sequence]) -> None:
        if not sequences:
            return
        now = time.perf_counter()
        for sequence in sequences:
            sequence.began = sequence.began or now
            sequence.resumed_at = sequence.num_steps
        self._running += sequences
        try:
            self._backend.add(sequences)
        except DeviceFault:
            raise
        except Exception as error:  # whatever else the model raises belongs to a sequence
            self._running = self._running[: -len(sequences)]
            if not (isinstance(error, MemoryError) and self._shrink(sequences)):
                self._isolate(sequences, error)
        else:
            self._preempted.difference_update(sequences)

    def _shrink(self, sequences: list[Sequence]) -> bool:
        with self._changed:
            return self._scheduler.shrink(sequences)

    def _isolate(self, sequences: list[Sequence], error: Exception) -> None:
        """Run each sequence alone; one that was alone is the cause of the error, or the device."""
        if len(sequences) > 1:
            with self._changed:
                self._scheduler.isolate(sequences)
            return
        try:
            self._backend.probe()
        except Exception:
            refuse(sequences[0], EngineStopped())
            raise
        refuse(sequences[0], error)

    def _step(self) -> None:
        sequences = list(self._running)
        self._counters.count_step(len(sequences))
        try:
            ended = self._backend.step()
        except DeviceFault:
            raise
        except Exception as error:  # whatever else the model raises belongs to a sequence
            self._backend.reset()
            self._running.clear()
            self._preempted.clear()  # they begin anew
            self._isolate(sequences, error)
            return
        for sequence in sequences:
            sequence.num_steps += 1
            sequence.shares += 1 / len(sequences)
        for sequence in ended:
            self._finish(sequence)
        self._report()

    def _finish(self, sequence: Sequence) -> None:
        if sequence not in self._running:
            return
        self._running.remove(sequence)
        if not sequence.is_wanted():  # the backend may have cut it short
            refuse(sequence, RequestTimeout())
            return
        sequence.ended = time.perf_counter()
        self._measure(sequence.ran_s * sequence.share / sequence.num_tokens)
        with suppress(InvalidStateError):  # its caller has left
            sequence.future.set_result(sequence.tokens)

    def _measure(self, seconds_per_token: float) -> None:
        known = self._seconds_per_token or seconds_per_token
        self._seconds_per_token = SMOOTHING * known + (1 - SMOOTHING) * seconds_per_token

    def _report(self) -> None:
        """Tell those who listen, every few steps, how far their sequences are."""
        heard = [
            sequence
            for sequence in self._running
            if sequence.on_progress is not None and sequence.num_steps % PROGRESS_STEPS == 0
        ]
        for sequence, progress in self._backend.progress(heard).items() if heard else ():
            if sequence.on_progress is not None:
                sequence.on_progress(progress)

    def _refuse_all(self) -> None:
        with self._changed:
            self._closed = True
            left = [*self._running, *self._scheduler.clear()]
            self._running.clear()
        for sequence in left:
            refuse(sequence, EngineStopped())


def described(error: BaseException) -> str:
    """An error in one line: its kind, and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def call_on(
    loop: asyncio.AbstractEventLoop, on_progress: Callable[[Progress], None], progress: Progress
) -> None:
    """Call `on_progress` on its own event loop, unless that is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(on_progress, progress)


def without_expired(sequences: Sequences) -> list[Sequence]:
    """The sequences whose callers wait and are in time; those that have expired are refused."""
    now = time.time()
    for sequence in sequences:
        if error := sequence.expired(now):
            refuse(sequence, error)
    return [sequence for sequence in sequences if not sequence.future.done()]


def refuse(sequence: Sequence, error: Exception) -> None:
    """End a sequence with `error`, unless its caller has left or has the tokens."""
    with suppress(InvalidStateError):
        sequence.future.set_exception(error)
