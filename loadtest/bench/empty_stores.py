"""Empty stores for a benchmark, each gone after its block.

`plain` is what a store would be without group commit: the same statements on the same database,
each request committed by itself.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import asyncpg

from deployments.jobs.job import Submission
from deployments.jobs.postgres import PostgresStore
from deployments.jobs.postgres.database import Database, columns
from deployments.jobs.postgres.submits import AFTER, BEFORE, values_of
from deployments.jobs.sqlite import SqliteStore
from deployments.jobs.sqlite.file import open_file
from deployments.jobs.sqlite.operations import Tables
from deployments.jobs.store import POSITION_CAP, RowStore
from deployments.settings import QueueSettings

Submit = Callable[[Submission], Awaitable[Any]]

RULES = QueueSettings(max_queued=10_000_000)
POOL_SIZE = 8


class EmptyStores(Protocol):
    name: str

    def store(self) -> AbstractAsyncContextManager[RowStore]:
        """An empty store."""

    def plain(self) -> AbstractAsyncContextManager[Submit]:
        """How to submit to an empty store without group commit."""


class SqliteFiles:
    name = "SQLite"

    @asynccontextmanager
    async def store(self) -> AsyncIterator[RowStore]:
        with TemporaryDirectory() as folder:
            store = SqliteStore.open(Path(folder) / "queue.db", RULES, is_owner=True)
            try:
                yield store
            finally:
                await store.close()

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[Submit]:
        """One writer, in a thread, that commits for each request."""
        with TemporaryDirectory() as folder:
            connection = open_file(Path(folder) / "queue.db", is_owner=True)
            tables, turn = Tables(connection, RULES, time.time), asyncio.Lock()

            def commit(submission: Submission) -> None:
                connection.execute("BEGIN IMMEDIATE")
                tables.submit(submission)
                connection.execute("COMMIT")

            async def submit(submission: Submission) -> None:
                async with turn:
                    await asyncio.to_thread(commit, submission)

            try:
                yield submit
            finally:
                connection.close()


class PostgresSchemas:
    name = "PostgreSQL"

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def store(self) -> AsyncIterator[RowStore]:
        async with self._schema() as url:
            store = await PostgresStore(url, RULES, POOL_SIZE).open()
            try:
                yield store
            finally:
                await store.close()

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[Submit]:
        """As many connections as the store has; each commits one request at a time."""
        async with self._schema() as url:
            database = await Database(url, POOL_SIZE).open()

            async def submit(submission: Submission) -> None:
                values = columns([values_of(submission)])
                await database.rows("submit", *values, BEFORE, AFTER, [0], POSITION_CAP)

            try:
                yield submit
            finally:
                await database.close()

    @asynccontextmanager
    async def _schema(self) -> AsyncIterator[str]:
        name = f"bench_{secrets.token_hex(8)}"
        connection = await asyncpg.connect(self._url)
        await connection.execute(f"CREATE SCHEMA {name}")
        try:
            yield f"{self._url}{'&' if '?' in self._url else '?'}search_path={name}"
        finally:
            await connection.execute(f"DROP SCHEMA {name} CASCADE")
            await connection.close()
