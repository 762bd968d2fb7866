"""Batches what is waiting, the moment the model is free.

A bounded queue and one engine thread; it knows neither tensors nor HTTP.
Whoever leaves while waiting is forgotten, so a batch is made only of those who still want it;
whoever leaves later is unwanted from then on, which the work may ask about and stop.
A batch that fails is split until the one that makes it fail stands alone.
"""

import asyncio
import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from deployments.errors import InternalError, Overloaded, RequestTimeout
from deployments.florence.run import Run

T = TypeVar("T")
R = TypeVar("R")
IsWanted = Callable[[int], bool]  # of the item with this number in its batch


@dataclass(frozen=True)
class Batched(Generic[R]):
    """One result, the seconds it waited, the seconds its batch ran, and the batch's size."""

    result: R
    waited_s: float
    ran_s: float
    batch_size: int


@dataclass(order=True)
class Entry(Generic[T, R]):
    """A waiting request; entries sort by priority, then by arrival."""

    priority: int
    number: int
    item: T = field(compare=False)
    run: Run = field(compare=False)
    arrived: float = field(compare=False, default_factory=time.perf_counter)
    future: "Future[Batched[R]]" = field(compare=False, default_factory=Future)


class Batch(Generic[T, R]):
    """Requests that go through the model together; some may leave on the way."""

    def __init__(self, entries: list[Entry[T, R]]) -> None:
        self.entries = entries
        self._left: set[int] = set()

    def is_wanted(self, number: int) -> bool:
        """Whether the caller of this item is still there and in time; one who left stays away."""
        entry = self.entries[number]
        if entry.future.done() or time.time() >= entry.run.deadline:
            self._left.add(number)
        return number not in self._left

    def answer(self, results: Sequence[R], began: float, ran_s: float) -> None:
        """Give each its result, but not one that may have been cut short."""
        for number, (entry, result) in enumerate(zip(self.entries, results, strict=True)):
            if number in self._left:
                refuse(entry, RequestTimeout())
            else:
                waited_s = began - entry.arrived
                settle(entry, Batched(result, waited_s, ran_s, len(self.entries)))

    def dismiss(self) -> list[Entry[T, R]]:
        """Answer those whose time is over; the others, who are still wanted."""
        staying = [entry for number, entry in enumerate(self.entries) if self.is_wanted(number)]
        for number in self._left:
            refuse(self.entries[number], RequestTimeout())
        return staying


class Batcher(Generic[T, R]):
    """Answers each admitted request exactly once.

    Args:
        work: items → as many results, called on the engine thread only; it may ask at any time
            which items are still wanted, and what it returns for the others is dropped.
        max_batch_size: most items of one call.
        max_wait_s: how long an idle engine waits for a batch to fill.
        max_queue: most requests waiting.
        prepare: called once on the engine thread, before any work.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T], IsWanted], Sequence[R]],
        *,
        max_batch_size: int,
        max_wait_s: float,
        max_queue: int,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._work = work
        self._prepare = prepare
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._waiting: list[Entry[T, R]] = []
        self._changed = threading.Condition()
        self._numbers = count()
        self._busy_since: float | None = None
        self._last_pass_s = 0.1
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="inference-engine", daemon=True)
        self._thread.start()

    async def submit(self, item: T, run: Run) -> Batched[R]:
        """The result for `item`.

        Raises:
            Overloaded: the queue is full.
            StartTimeout, RequestTimeout: the run's time was over before the model was free.
            RequestTimeout: its deadline passed while the model was at it.
            Exception: what `work` raised for this item alone.
        """
        entry: Entry[T, R] = Entry(run.priority, next(self._numbers), item, run)
        self._admit(entry)
        loop = asyncio.get_running_loop()
        patience = min(run.patience(time.time()), threading.TIMEOUT_MAX)
        timer = loop.call_later(max(0.0, patience), self._expire, entry)
        try:
            return await asyncio.wrap_future(entry.future)
        finally:
            timer.cancel()
            self._forget(entry)
            entry.future.cancel()

    def check(self, stall_timeout_s: float) -> None:
        """Do nothing while the engine lives.

        Raises:
            InternalError: its thread has died, or one pass takes longer than `stall_timeout_s`.
        """
        if not self._thread.is_alive():
            raise InternalError("The engine thread has died.")
        since = self._busy_since
        if since is not None and time.perf_counter() - since > stall_timeout_s:
            raise InternalError(f"One pass of the model takes longer than {stall_timeout_s} s.")

    def close(self) -> None:
        """Stop the engine thread after its current pass; who still waits gets an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _admit(self, entry: Entry[T, R]) -> None:
        with self._changed:
            if self._closed or not self._thread.is_alive():
                raise InternalError("The engine is not running.")
            if len(self._waiting) >= self._max_queue:
                raise Overloaded.after(self._clearing_time())
            insort(self._waiting, entry)
            self._changed.notify_all()

    def _clearing_time(self) -> float:
        """Seconds until the requests waiting now will have been served, by the last pass."""
        return len(self._waiting) / self._max_batch_size * self._last_pass_s

    def _forget(self, entry: Entry[T, R]) -> bool:
        """Take `entry` out of the queue; False when it has left already."""
        with self._changed:
            if entry not in self._waiting:
                return False
            self._waiting.remove(entry)
            return True

    def _expire(self, entry: Entry[T, R]) -> None:
        if self._forget(entry):
            refuse(entry, entry.run.expired(time.time()) or RequestTimeout())

    def _serve(self) -> None:
        batch: list[Entry[T, R]] | None = []
        try:
            if self._prepare is not None:
                self._prepare()
            while (batch := self._next_batch()) is not None:
                self._run(in_time(batch))
        except BaseException:
            for entry in batch or ():
                refuse(entry, InternalError("The engine died."))
            raise
        finally:
            self._abandon()

    def _next_batch(self) -> list[Entry[T, R]] | None:
        """The next entries to run, None when closed; all of them may just have left.

        What already waits goes at once; an engine that was idle gives others a moment to join.
        """
        with self._changed:
            idle = not self._waiting
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if idle and self._max_wait_s:
                self._changed.wait_for(self._is_full, self._max_wait_s)
            if self._closed:
                return None
            batch = self._waiting[: self._max_batch_size]
            del self._waiting[: self._max_batch_size]
            return batch

    def _is_full(self) -> bool:
        return self._closed or len(self._waiting) >= self._max_batch_size

    def _run(self, entries: list[Entry[T, R]]) -> None:
        if not entries:
            return
        batch = Batch(entries)
        began = self._busy_since = time.perf_counter()
        try:
            results = self._results(batch)
        except Exception as error:  # whatever the model raises belongs to a request
            self._split(batch, error)
        else:
            self._last_pass_s = time.perf_counter() - began
            batch.answer(results, began, self._last_pass_s)
        finally:
            self._busy_since = None

    def _results(self, batch: Batch[T, R]) -> Sequence[R]:
        results = self._work([entry.item for entry in batch.entries], batch.is_wanted)
        assert len(results) == len(batch.entries), "the model answers each item once"
        return results

    def _split(self, batch: Batch[T, R], error: Exception) -> None:
        """Run each half of those who stay by itself; a batch of one is the culprit."""
        if len(batch.entries) == 1:
            refuse(batch.entries[0], error)
            return
        staying = batch.dismiss()
        middle = len(staying) // 2
        self._run(staying[:middle])
        self._run(staying[middle:])

    def _abandon(self) -> None:
        """Answer those who wait when nobody will serve them any more."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for entry in waiting:
            refuse(entry, InternalError("The engine stopped."))


def in_time(entries: list[Entry[T, R]]) -> list[Entry[T, R]]:
    """Those whose callers are still there and in time; the late ones are answered."""
    now = time.time()
    for entry in entries:
        if error := entry.run.expired(now):
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
