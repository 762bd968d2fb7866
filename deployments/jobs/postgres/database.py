"""Connections to PostgreSQL: named statements, transactions, and losses that heal.

Knows nothing of what the statements mean.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

import asyncpg
from asyncpg import Record
from asyncpg.exceptions import (
    CannotConnectNowError,
    DeadlockDetectedError,
    InsufficientResourcesError,
    OperatorInterventionError,
    PostgresConnectionError,
    ReadOnlySQLTransactionError,
)
from asyncpg.pool import PoolConnectionProxy

from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.postgres.schema import migrate
from deployments.jobs.statements import statements
from deployments.telemetry.log import logger

T = TypeVar("T")
Connection: TypeAlias = "PoolConnectionProxy[Record]"

CONNECT_TIMEOUT_S = 10.0  # also for one to come free
COMMAND_TIMEOUT_S = 30.0  # a statement takes milliseconds; this one waits for a lock in vain
CLOSE_TIMEOUT_S = 5.0
MAX_TRIES = 5  # of a transaction that PostgreSQL chose to end a deadlock

REMEDY = "write postgresql://USER:PASSWORD@HOST/DATABASE, special characters as %XX"

# Statistics of a queue are always out of date, and a plan that was made while it was empty is
# used when it holds 100,000: every statement is written for loops over an index, so leave no
# choice, and plan each one once.
SESSION = """
SET jit = off;
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET default_transaction_isolation = 'read committed';
"""

LOSSES = (
    OSError,
    TimeoutError,
    PostgresConnectionError,
    OperatorInterventionError,
    InsufficientResourcesError,
    ReadOnlySQLTransactionError,
    CannotConnectNowError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what it says of a connection that ended at an odd moment
)


class Transaction:
    """Statements that take effect together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sql = statements("postgres")

    async def rows(self, name: str, *values: Any) -> list[Record]:
        """What the statement called `name` returns."""
        return await self._connection.fetch(self._sql[name], *values)

    async def row(self, name: str, *values: Any) -> Record | None:
        """The first row of it, if any."""
        return await self._connection.fetchrow(self._sql[name], *values)

    async def value(self, name: str, *values: Any) -> Any:
        """The first column of the first row, None when there is no row."""
        return await self._connection.fetchval(self._sql[name], *values)


class Database:
    """A pool of connections; one that is lost is made anew when it is needed again."""

    def __init__(self, pool: "asyncpg.Pool[Record]") -> None:
        self._pool = pool

    @classmethod
    async def open(cls, url: str, pool_size: int) -> Self:
        """Connect to `url` and bring the schema up to date.

        Raises:
            SetupError: there is no such database, or it is not fit for use.
        """
        with explained(url):
            check(url)
            pool = asyncpg.create_pool(
                url,
                min_size=1,
                max_size=pool_size,
                init=prepare,
                reset=leave_as_it_is,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                max_inactive_connection_lifetime=0,
            )
            await pool
        try:
            with explained(url):
                async with pool.acquire() as connection:
                    await migrate(connection)
        except BaseException:
            pool.terminate()
            raise
        return cls(pool)

    async def close(self) -> None:
        """Let go of all connections; those in use after a moment are cut."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def rows(self, name: str, *values: Any) -> list[Record]:
        """What the statement called `name` returns, in a transaction of its own."""
        return await self._try(lambda connection: Transaction(connection).rows(name, *values))

    async def row(self, name: str, *values: Any) -> Record | None:
        """The first row of it, if any."""
        return await self._try(lambda connection: Transaction(connection).row(name, *values))

    async def value(self, name: str, *values: Any) -> Any:
        """The first column of the first row, None when there is no row."""
        return await self._try(lambda connection: Transaction(connection).value(name, *values))

    async def together(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """The result of `work`, all of whose statements take effect together, or none.

        It is run again when PostgreSQL ends it for the sake of another transaction.
        """

        async def run(connection: Connection) -> T:
            async with connection.transaction():
                return await work(Transaction(connection))

        return await self._try(run)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for as long as the block runs.

        Raises:
            StoreUnavailable: there is none, or it was lost.
        """
        try:
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                with dropped_if_lost(connection):
                    yield connection
        except asyncpg.DataError:
            raise
        except LOSSES as error:
            logger.warning("the store cannot be reached: %s", reason_of(error))
            raise StoreUnavailable from error

    async def _try(self, run: Callable[[Connection], Awaitable[T]]) -> T:
        for _ in range(MAX_TRIES):
            async with self.connection() as connection:
                try:
                    return await run(connection)
                except DeadlockDetectedError as error:
                    deadlock = error
        raise StoreUnavailable from deadlock


@contextmanager
def dropped_if_lost(connection: Connection) -> Iterator[None]:
    """See to it that a connection that has failed is not used again, whatever state it is in."""
    try:
        yield
    except asyncpg.DataError:
        raise
    except LOSSES:
        connection.terminate()
        raise


async def prepare(connection: "asyncpg.Connection[Record]") -> None:
    """Make a new connection plan the way that a queue needs."""
    await connection.execute(SESSION)


async def leave_as_it_is(connection: "asyncpg.Connection[Record]") -> None:
    """Nothing here changes a session, so a round trip to reset it would be wasted."""


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn whatever goes wrong while the store is opened into one line for the operator."""
    try:
        yield
    except ValueError:  # asyncpg's ClientConfigurationError, too; it may quote the password
        raise SetupError(f"store postgresql://…: not a valid URL; {REMEDY}") from None
    except SetupError as error:
        raise SetupError(f"store {shown(url)}: {error}") from None
    except (asyncpg.PostgresError, *LOSSES) as error:
        raise SetupError(
            f"store {shown(url)}: cannot be used ({reason_of(error)}); "
            "check store.url, that the server runs, and that the user may create tables"
        ) from None


def check(url: str) -> None:
    """Refuse a URL in which a part of the password may be taken for something else.

    Raises:
        ValueError: it is such a one.
    """
    parts = urlsplit(url)
    if parts.fragment or "@" in parts.path or parts.netloc.count("@") > 1:
        raise ValueError("special characters")


def shown(url: str) -> str:
    """The URL without its password or options."""
    parts = urlsplit(url)
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
