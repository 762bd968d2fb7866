"""Connections that only read: those of the store's own threads, and those of other processes.

In WAL mode a reader waits for no writer, and sees every commit that has been acknowledged.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from deployments.errors import StoreUnavailable
from deployments.jobs.sqlite.group_commit import unavailable
from deployments.jobs.sqlite.operations import Tables
from deployments.settings import QueueSettings

T = TypeVar("T")


class Readers:
    """As many threads as there are connections."""

    def __init__(self, connections: Sequence[Tables]) -> None:
        self._idle: SimpleQueue[Tables] = SimpleQueue()
        for connection in connections:
            self._idle.put(connection)
        self._threads = ThreadPoolExecutor(len(connections), "store-reader")

    async def run(self, work: Callable[[Tables], T]) -> T:
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

    def _read(self, work: Callable[[Tables], T]) -> T:
        connection = self._idle.get_nowait()  # one for each thread
        try:
            return work(connection)
        except sqlite3.Error as error:
            raise unavailable(error) from error
        finally:
            self._idle.put(connection)


class ReadOnlyReader:
    """Reads the file of another process, which spares that process the call.

    A read takes about a tenth of a millisecond, less than handing it to a thread, so it is made
    in the event loop.
    """

    def __init__(self, file: Path, rules: QueueSettings) -> None:
        self._file = file
        self._rules = rules
        self._tables: Tables | None = None

    def read(self, work: Callable[[Tables], T]) -> T:
        """The result of `work`, which changes nothing.

        Raises:
            sqlite3.Error: the file cannot be read now, for example while its owner makes it.
        """
        try:
            self._tables = self._tables or self._open()
            return work(self._tables)
        except sqlite3.Error:
            self._tables = None
            raise

    def _open(self) -> Tables:
        # `mode=ro` makes no file where there is none; waiting for a lock would stop the event loop.
        connection = sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True, timeout=0)
        connection.row_factory = sqlite3.Row
        return Tables(connection, self._rules, time.time)
