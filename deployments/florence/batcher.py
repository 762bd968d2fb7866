"""Batches what is waiting, the moment the model is free.

A bounded queue and one engine thread; it knows neither tensors nor HTTP.
Whoever leaves while waiting is forgotten, so a batch is made only of those who still want it.
A batch that fails is split until the one that makes it fail stands alone.
"""

import asyncio
import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from deployments.errors import InternalError, Overloaded, RequestTimeout
from deployments.florence.run import Run

T = TypeVar("T")
R = TypeVar("R")


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


class Batcher(Generic[T, R]):
    """Answers each admitted request exactly once.

    Args:
        work: items → as many results, called on the engine thread only.
        max_batch_size: most items of one call.
        max_wait_s: how long an idle engine waits for a batch to fill.
        max_queue: most requests waiting.
        prepare: called once on the engine thread, before any work.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
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
                self._run(wanted(batch))
        except BaseException:
            fail(
                [entry for entry in batch or () if not entry.future.done()],
                InternalError("The engine died."),
            )
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

    def _run(self, batch: list[Entry[T, R]]) -> None:
        if not batch:
            return
        began = self._busy_since = time.perf_counter()
        try:
            results = self._results(batch)
        except Exception as error:  # whatever the model raises belongs to a request
            self._split(batch, error)
        else:
            self._last_pass_s = time.perf_counter() - began
            answer(batch, results, began, self._last_pass_s)
        finally:
            self._busy_since = None

    def _results(self, batch: list[Entry[T, R]]) -> Sequence[R]:
        results = self._work([entry.item for entry in batch])
        assert len(results) == len(batch), "the model answers each item once"
        return results

    def _split(self, batch: list[Entry[T, R]], error: Exception) -> None:
        """Run each half by itself; a batch of one is the culprit."""
        if len(batch) == 1:
            fail(batch, error)
            return
        middle = len(batch) // 2
        self._run(batch[:middle])
        self._run(batch[middle:])

    def _abandon(self) -> None:
        """Answer those who wait when nobody will serve them any more."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for entry in waiting:
            refuse(entry, InternalError("The engine stopped."))


def wanted(batch: list[Entry[T, R]]) -> list[Entry[T, R]]:
    """Those of `batch` whose callers are still there and in time; from here on they run."""
    now = time.time()
    present = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
    for entry in present:
        if error := entry.run.expired(now):
            entry.future.set_exception(error)
    return [entry for entry in present if not entry.future.done()]


def refuse(entry: Entry[T, R], error: Exception) -> None:
    """Answer a request that never ran, unless its caller has left."""
    if entry.future.set_running_or_notify_cancel():
        entry.future.set_exception(error)


def fail(batch: list[Entry[T, R]], error: Exception) -> None:
    """Answer each of a running batch with `error`."""
    for entry in batch:
        entry.future.set_exception(error)


def answer(batch: list[Entry[T, R]], results: Sequence[R], began: float, ran_s: float) -> None:
    """Give each of a running batch its result."""
    for entry, result in zip(batch, results, strict=True):
        batched = Batched(result, began - entry.arrived, ran_s, len(batch))
        entry.future.set_result(batched)
