"""Threads that read, each with a connection of its own, beside the one that writes."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

from deployments.errors import StoreUnavailable
from deployments.jobs.sqlite.group_commit import unavailable

C = TypeVar("C")
T = TypeVar("T")


class Readers(Generic[C]):
    """As many threads as there are connections."""

    def __init__(self, connections: Sequence[C]) -> None:
        self._idle: SimpleQueue[C] = SimpleQueue()
        for connection in connections:
            self._idle.put(connection)
        self._threads = ThreadPoolExecutor(len(connections), "store-reader")

    async def run(self, work: Callable[[C], T]) -> T:
        """The result of `work` on one of the connections.

        Raises:
            StoreUnavailable: the database refused, or this is closed.
        """
        loop = asyncio.get_running_loop()
        try:
            reading = loop.run_in_executor(self._threads, self._read, work)
        except RuntimeError:  # closed
            raise StoreUnavailable from None
        return await reading

    def close(self) -> None:
        """Finish what is being read, and end the threads."""
        self._threads.shutdown()

    def _read(self, work: Callable[[C], T]) -> T:
        connection = self._idle.get_nowait()  # one for each thread
        try:
            return work(connection)
        except sqlite3.Error as error:
            raise unavailable(error) from error
        finally:
            self._idle.put(connection)
