"""Takes requests from callers to a backend and its results back, on one engine thread.

It knows neither tensors nor HTTP. Who leaves while waiting is forgotten; who leaves later is
dropped at the next step. When a step fails, those that were in it are tried again one by one,
so that the one that makes it fail stands alone.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count
from typing import Generic, TypeVar

from deployments.errors import InternalError, Overloaded, RequestTimeout, ServiceError
from deployments.florence.backend import Backend, Job
from deployments.florence.counters import Tally
from deployments.florence.request import Request
from deployments.florence.scheduler import Schedule

T = TypeVar("T")
R = TypeVar("R")

REPORT_STEPS = 4  # steps between two reports of progress: a box has four location tokens
SMOOTHING = 0.9


@dataclass(frozen=True)
class Batched(Generic[R]):
    """One result, the seconds it waited and ran, and its mean share of the steps it was part of.

    The share is 1 for who was alone, 1/8 for one of eight.
    """

    result: R
    waited_s: float
    ran_s: float
    share: float


class Interest(Generic[R]):
    """Whether somebody still waits for a result; when nobody does, nobody will again.

    A job has this and not its entry: a circle of references would keep its image in memory.
    """

    def __init__(self, future: "Future[Batched[R]]", deadline: float) -> None:
        self._future = future
        self._deadline = deadline
        self._is_over = False

    def __call__(self) -> bool:
        """Whether the caller is still there and in time."""
        self._is_over = self._is_over or self._future.done() or time.time() >= self._deadline
        return not self._is_over


@dataclass(order=True)
class Entry(Generic[T, R]):
    """A request; entries sort by priority, then by arrival."""

    priority: int
    number: int
    job: Job[T] = field(compare=False)
    run: Request = field(compare=False)
    future: "Future[Batched[R]]" = field(compare=False)
    cost: float = field(compare=False, default=1.0)
    report: Callable[[R], None] | None = field(compare=False, default=None)
    arrived: float = field(compare=False, default_factory=time.perf_counter)
    began: float = field(compare=False, default=0.0)
    num_steps: int = field(compare=False, default=0)
    resumed_at: int = field(compare=False, default=0)
    shares: float = field(compare=False, default=0.0)

    def expired(self, now: float) -> ServiceError | None:
        """The error of who is too late to begin; who had begun already has its deadline alone."""
        run = replace(self.run, start_by=float("inf")) if self.began else self.run
        return run.expired(now)

    def batched(self, result: R, now: float) -> Batched[R]:
        """The result, with what was measured on the way."""
        share = self.shares / max(1, self.num_steps)
        return Batched(result, self.began - self.arrived, now - self.began, share)


class Batcher(Generic[T, R]):
    """Answers each admitted request exactly once.

    Args:
        backend: who computes; used on the engine thread only.
        max_wait_s: how long a request waits for others to begin with it.
        turn_steps: steps after which a request gives up its slot while others wait for one.
        max_queue: most requests waiting.
        max_cost: most that they may cost together.
        prepare: called once on the engine thread, before any work.
    """

    def __init__(
        self,
        backend: Backend[T, R],
        *,
        max_wait_s: float,
        max_queue: int,
        max_cost: float = float("inf"),
        turn_steps: float = float("inf"),
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._backend = backend
        self._prepare = prepare
        self._schedule: Schedule[Entry[T, R]] = Schedule(
            num_slots=backend.num_slots,
            micro_batch=backend.micro_batch,
            patience_s=max_wait_s,
            max_waiting=max_queue,
            max_cost=max_cost,
        )
        self._turn_steps = turn_steps
        self._running: dict[Job[T], Entry[T, R]] = {}
        self._suspended: dict[Job[T], Entry[T, R]] = {}
        self._changed = threading.Condition()
        self._numbers = count()
        self._tally = Tally()
        self._busy_since: float | None = None
        self._seconds_per_cost = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="inference-engine", daemon=True)
        self._thread.start()

    async def submit(
        self,
        item: T,
        run: Request,
        cost: float = 1.0,
        report: Callable[[R], None] | None = None,
    ) -> Batched[R]:
        """The result for `item`.

        Args:
            cost: what it will take, in the unit of `max_cost`.
            report: called on this event loop with the result so far, now and then.

        Raises:
            Overloaded: too much is waiting.
            StartTimeout, RequestTimeout: the run's time was over before it could begin.
            RequestTimeout: its deadline passed on the way.
            Exception: what the backend raised for this item alone.
        """
        loop = asyncio.get_running_loop()
        entry = self._entry(item, run, cost, report and partial(tell, loop, report))
        self._admit(entry)
        patience = min(run.patience(time.time()), threading.TIMEOUT_MAX)
        timer = loop.call_later(max(0.0, patience), self._expire, entry)
        try:
            return await asyncio.wrap_future(entry.future)
        finally:
            timer.cancel()
            entry.future.cancel()
            self._forget(entry)

    @property
    def tally(self) -> Tally:
        """What has been done until now."""
        return self._tally.copied()

    @property
    def num_slots(self) -> int:
        """Most requests that run at a time."""
        return self._backend.num_slots

    @property
    def num_running(self) -> int:
        """Requests in the backend now."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that have not begun, or wait to go on."""
        with self._changed:
            return len(self._schedule)

    @property
    def num_ongoing(self) -> int:
        """Requests that wait or run."""
        with self._changed:
            return len(self._schedule) + len(self._running)

    def check(self, stall_timeout_s: float) -> None:
        """Do nothing while the engine lives.

        Raises:
            InternalError: its thread has died, or one step takes longer than `stall_timeout_s`.
        """
        if not self._thread.is_alive():
            raise InternalError("The engine thread has died.")
        since = self._busy_since
        if since is not None and time.perf_counter() - since > stall_timeout_s:
            raise InternalError(f"One step of the model takes longer than {stall_timeout_s} s.")

    def close(self) -> None:
        """Stop the engine thread after its current step; who is not done gets an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _entry(
        self, item: T, run: Request, cost: float, report: Callable[[R], None] | None
    ) -> Entry[T, R]:
        future: Future[Batched[R]] = Future()
        job = Job(item, Interest(future, run.deadline))
        return Entry(run.priority, next(self._numbers), job, run, future, cost, report)

    def _admit(self, entry: Entry[T, R]) -> None:
        with self._changed:
            if self._closed or not self._thread.is_alive():
                raise InternalError("The engine is not running.")
            if not self._schedule.has_room(entry.cost):
                raise Overloaded.after(self._schedule.cost * self._seconds_per_cost)
            self._schedule.add(entry)
            self._changed.notify_all()

    def _forget(self, entry: Entry[T, R]) -> bool:
        """Take `entry` out of the queue; False when it has left already."""
        with self._changed:
            was_there = self._schedule.remove(entry)
            if was_there:
                self._changed.notify_all()  # the backend may keep it suspended
            return was_there

    def _expire(self, entry: Entry[T, R]) -> None:
        if entry.began and time.time() < entry.run.deadline:
            return  # it waits to begin again
        if self._forget(entry):
            refuse(entry, entry.expired(time.time()) or RequestTimeout())

    def _serve(self) -> None:
        try:
            if self._prepare is not None:
                self._prepare()
            while self._is_open():
                self._turn()
        finally:
            self._abandon()

    def _is_open(self) -> bool:
        """Whether to go on; with nothing to do, it waits for something."""
        with self._changed:
            if not self._running and not self._closed and not any(self._unwanted()):
                self._changed.wait(self._schedule.pause_s(time.perf_counter()))
            return not self._closed

    def _turn(self) -> None:
        """One step of the batch, with those who join it and without those who left."""
        begun = self._busy_since = time.perf_counter()
        try:
            self._drop_unwanted()
            self._make_room()
            self._begin(self._next())
            if self._running:
                self._step()
                self._tally.busy_s += time.perf_counter() - begun
        finally:
            self._busy_since = None

    def _drop_unwanted(self) -> None:
        for entry in list(self._unwanted()):
            self._backend.drop(entry.job)
            self._forget(entry)
            self._running.pop(entry.job, None)
            self._suspended.pop(entry.job, None)
            refuse(entry, RequestTimeout())

    def _unwanted(self) -> Iterator[Entry[T, R]]:
        """Those whom the backend need not know any more."""
        known = chain(self._running.values(), self._suspended.values())
        return (entry for entry in known if not entry.job.is_wanted())

    def _make_room(self) -> None:
        """Let who has had its turn wait again, behind those for whom there is no slot."""
        with self._changed:
            waiting = self._schedule.next_in_line(len(self._running))
        entry = waiting and self._longest_at_it(waiting.priority)
        if entry and self._backend.suspend(entry.job):
            self._suspended[entry.job] = self._running.pop(entry.job)
            entry.number = next(self._numbers)
            with self._changed:
                self._schedule.add(entry)

    def _longest_at_it(self, priority: int) -> Entry[T, R] | None:
        """Whose turn is over, by the most steps, among those that are no more urgent."""
        over = [
            entry
            for entry in self._running.values()
            if entry.num_steps - entry.resumed_at >= self._turn_steps and entry.priority >= priority
        ]
        return max(over, key=lambda entry: entry.num_steps, default=None)

    def _next(self) -> list[Entry[T, R]]:
        with self._changed:
            taken = self._schedule.take(len(self._running), time.perf_counter())
            reason = self._schedule.reason
        begun = in_time(taken)
        if begun:
            self._tally.begin(reason)
        return begun

    def _begin(self, entries: list[Entry[T, R]]) -> None:
        if not entries:
            return
        now = time.perf_counter()
        for entry in entries:
            entry.began = entry.began or now
            entry.resumed_at = entry.num_steps
            self._running[entry.job] = entry
        try:
            self._backend.admit([entry.job for entry in entries])
        except MemoryError as error:
            self._lighten(self._withdrawn(entries), error)
        except Exception as error:  # whatever the model raises belongs to a request
            self._suspect(self._withdrawn(entries), error)
        else:
            for entry in entries:
                self._suspended.pop(entry.job, None)

    def _withdrawn(self, entries: list[Entry[T, R]]) -> list[Entry[T, R]]:
        """The entries, which have not begun after all."""
        for entry in entries:
            del self._running[entry.job]
        return entries

    def _lighten(self, entries: list[Entry[T, R]], error: MemoryError) -> None:
        """Begin fewer at a time."""
        with self._changed:
            shrunk = self._schedule.shrink(entries)
        if not shrunk:
            self._suspect(entries, error)

    def _suspect(self, entries: Sequence[Entry[T, R]], error: Exception) -> None:
        """Try each of `entries` by itself; one that was by itself is the culprit."""
        if len(entries) == 1:
            refuse(entries[0], error)
            return
        with self._changed:
            self._schedule.isolate(entries)

    def _step(self) -> None:
        entries = list(self._running.values())
        self._tally.step(len(entries))
        try:
            finished = self._backend.step()
        except Exception as error:  # whatever the model raises belongs to a request
            self._backend.reset()
            self._running.clear()
            self._suspended.clear()  # who waits to go on will begin anew
            self._suspect(entries, error)
            return
        for entry in entries:
            entry.num_steps += 1
            entry.shares += 1 / len(entries)
        for job, result in finished:
            self._finish(job, result)
        self._report()

    def _finish(self, job: Job[T], result: R) -> None:
        entry = self._running.pop(job, None)
        if entry is None:
            return
        if not entry.job.is_wanted():  # a backend may have cut it short
            refuse(entry, RequestTimeout())
            return
        batched = entry.batched(result, time.perf_counter())
        self._note(batched.ran_s * batched.share / entry.cost)
        settle(entry, batched)

    def _note(self, seconds_per_cost: float) -> None:
        known = self._seconds_per_cost or seconds_per_cost
        self._seconds_per_cost = SMOOTHING * known + (1 - SMOOTHING) * seconds_per_cost

    def _report(self) -> None:
        """Tell those who asked for it how far they are."""
        for entry in self._running.values():
            if entry.report is not None and entry.num_steps % REPORT_STEPS == 0:
                result = self._backend.progress(entry.job)
                if result is not None:
                    entry.report(result)

    def _abandon(self) -> None:
        """Answer all who are left when nobody will serve them any more."""
        with self._changed:
            self._closed = True
            left = [*self._running.values(), *self._schedule.clear()]
            self._running.clear()
        for entry in left:
            refuse(entry, InternalError("The engine stopped."))


def tell(loop: asyncio.AbstractEventLoop, report: Callable[[R], None], result: R) -> None:
    """Call `report` on its own event loop, unless that is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(report, result)


def in_time(entries: Sequence[Entry[T, R]]) -> list[Entry[T, R]]:
    """Those whose callers are still there and in time; the late ones are answered."""
    now = time.time()
    for entry in entries:
        if error := entry.expired(now):
            refuse(entry, error)
    return [entry for entry in entries if not entry.future.done()]


def settle(entry: Entry[T, R], batched: Batched[R]) -> None:
    """Answer a request with its result, unless its caller has left."""
    with suppress(InvalidStateError):
        entry.future.set_result(batched)


def refuse(entry: Entry[T, R], error: Exception) -> None:
    """Answer a request with `error`, unless its caller has left or has an answer."""
    with suppress(InvalidStateError):
        entry.future.set_exception(error)
