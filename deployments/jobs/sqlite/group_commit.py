"""Group commit: one thread writes for all callers, and commits once for all that wait.

To make a transaction durable costs the same for one change as for a hundred.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from threading import Condition, Thread
from typing import Any, TypeVar

from deployments.errors import StoreUnavailable
from deployments.telemetry.log import logger

T = TypeVar("T")

MAX_WAITING = 10_000  # changes; a caller beyond them is refused
MAX_GROUP = 512  # changes of one transaction, so that the first need not wait for long


@dataclass(frozen=True, eq=False)
class Change:
    """What a caller wants done, and where it waits for the answer."""

    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    outcome: "asyncio.Future[Any]"


Outcome = tuple[Any, Exception | None]  # the result, or an error


class GroupCommit:
    """Owns the thread that writes through `connection`, which is in autocommit mode."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._waiting: list[Change] = []
        self._is_closed = False
        self._signal = Condition()
        self._thread = Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, once all that it wrote is durable.

        It is done even if the caller is cancelled meanwhile. When it raises, nothing of it is
        written, and the other changes of its group are not touched.

        Raises:
            StoreUnavailable: the database refused, too many wait, or this is closed.
        """
        loop = asyncio.get_running_loop()
        change = Change(work, loop, loop.create_future())
        self._put(change)
        result: T = await change.outcome
        return result

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        with self._signal:
            self._is_closed = True
            self._signal.notify()
        self._thread.join()

    def _put(self, change: Change) -> None:
        with self._signal:
            if self._is_closed or len(self._waiting) >= MAX_WAITING:
                raise StoreUnavailable
            self._waiting.append(change)
            self._signal.notify()

    def _serve(self) -> None:
        while group := self._gather():
            answer(group, self._commit(group))

    def _gather(self) -> list[Change]:
        """The changes that wait, at least one; none when this is closed."""
        with self._signal:
            self._signal.wait_for(lambda: self._waiting or self._is_closed)
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            return group

    def _commit(self, group: list[Change]) -> list[Outcome]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._do(change) for change in group]
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return [(None, unavailable(error))] * len(group)
        return outcomes

    def _do(self, change: Change) -> Outcome:
        self._connection.execute("SAVEPOINT change")
        try:
            outcome: Outcome = change.work(), None
        except Exception as error:
            # This fails, and the whole group with it, where the error has ended the transaction.
            self._connection.execute("ROLLBACK TO change")
            outcome = None, unavailable(error) if isinstance(error, sqlite3.Error) else error
        self._connection.execute("RELEASE change")
        return outcome


def unavailable(error: sqlite3.Error) -> StoreUnavailable:
    """The error for callers; SQLite's message goes to the log."""
    logger.error("the store's file: %s", error)
    unavailable = StoreUnavailable()
    unavailable.__cause__ = error
    return unavailable


def answer(group: Iterable[Change], outcomes: Iterable[Outcome]) -> None:
    """Wake the callers, all those of one event loop at once."""
    answered = list(zip(group, outcomes, strict=True))
    for loop, pairs in groupby(answered, key=lambda pair: pair[0].loop):
        try:
            loop.call_soon_threadsafe(settle, list(pairs))
        except RuntimeError:  # the loop is closed, so no caller waits
            continue


def settle(pairs: Iterable[tuple[Change, Outcome]]) -> None:
    """Give the callers that still wait their outcomes."""
    for change, (result, error) in pairs:
        if change.outcome.done():
            continue
        if error is None:
            change.outcome.set_result(result)
        else:
            change.outcome.set_exception(error)
