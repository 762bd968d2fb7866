"""Connections to PostgreSQL: named statements, transactions, and recovery from lost connections.

Knows nothing of what the statements mean.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
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
from deployments.jobs.access import ABSENT, Access, older
from deployments.jobs.postgres.migrate import (
    check_fit,
    check_known,
    migrate,
    older_clause,
    version_in,
)
from deployments.jobs.sql import migrations, statements
from deployments.jobs.store_retry import retry
from deployments.settings import QueueSettings
from deployments.telemetry.log import logger

T = TypeVar("T")
Connection: TypeAlias = "PoolConnectionProxy[Record]"

CONNECT_TIMEOUT_S = 10.0  # also for one to come free
COMMAND_TIMEOUT_S = 30.0  # a statement takes milliseconds; this one waits for a lock in vain
CLOSE_TIMEOUT_S = 5.0
CLAIMS = 1  # the lock under which jobs and synchronous runs start
SUBMITS = 2  # the lock under which a queue that is nearly full grows
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
    """Statements that take effect together; `prefix` stands before each of them."""

    def __init__(self, connection: Connection, prefix: str = "") -> None:
        self._connection = connection
        self._prefix = prefix
        self._sql = statements("postgres")

    async def rows(self, name: str, *values: Any) -> list[Record]:
        """What the statement called `name` returns."""
        return await self._connection.fetch(self._prefix + self._sql[name], *values)

    async def row(self, name: str, *values: Any) -> Record | None:
        """The first row of it, if any."""
        return await self._connection.fetchrow(self._prefix + self._sql[name], *values)

    async def value(self, name: str, *values: Any) -> Any:
        """The first column of the first row, None when there is no row."""
        return await self._connection.fetchval(self._prefix + self._sql[name], *values)


class Database:
    """A pool of connections, made at the first use; lost ones are replaced when one is needed."""

    def __init__(self, url: str, pool_size: int, access: Access = Access.MIGRATE) -> None:
        self.schema = 0  # until it is open
        self.prefix = ""  # of statements that read an older schema
        self._url = url
        self._pool_size = pool_size
        self._access = access
        self._opening = asyncio.Lock()
        self._pool: asyncpg.Pool[Record] | None = None

    async def open(self) -> Self:
        """The database, connected; its schema is brought up to date if the access says so.

        Raises:
            SetupError: there is no such database, or it is not fit for use.
        """
        async with self._opening:
            if self._pool is None:
                opened = await connect(self._url, self._pool_size, self._access)
                self._pool, self.schema, self.prefix = opened
        return self

    async def close(self) -> None:
        """Let go of all connections; those in use after a moment are cut."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def rows(self, name: str, *values: Any) -> list[Record]:
        """What the statement called `name` returns, in a transaction of its own."""
        return await self._try(
            lambda connection: Transaction(connection, self.prefix).rows(name, *values)
        )

    async def row(self, name: str, *values: Any) -> Record | None:
        return await self._try(
            lambda connection: Transaction(connection, self.prefix).row(name, *values)
        )

    async def value(self, name: str, *values: Any) -> Any:
        """The first column of the first row, None when there is no row."""
        return await self._try(
            lambda connection: Transaction(connection, self.prefix).value(name, *values)
        )

    async def together(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """The result of `work`, all of whose statements take effect together, or none.

        It is run again when PostgreSQL ends it for the sake of another transaction.
        """

        async def run(connection: Connection) -> T:
            async with connection.transaction():
                return await work(self._transaction(connection))

        return await self._try(run)

    async def counted(
        self, work: Callable[[Transaction], Awaitable[tuple[str, T]]], retry_s: float
    ) -> T:
        """The result of `work`, as `together`; retried, and yet applied at most once.

        When a connection is lost while it commits, PostgreSQL is asked later what became of the
        transaction. `work` gives the transaction's id (`pg_current_xact_id`) and the result.

        Raises:
            StoreUnavailable: for longer than `retry_s`; whether it was applied is not known.
        """
        unanswered: tuple[str, T] | None = None

        async def noted(transaction: Transaction) -> tuple[str, T]:
            nonlocal unanswered
            unanswered = await work(transaction)
            return unanswered

        async def attempt() -> T:
            nonlocal unanswered
            if unanswered is not None and await self._is_committed(unanswered[0]):
                return unanswered[1]
            unanswered = None
            return (await self.together(noted))[1]

        return await retry(attempt, retry_s)

    async def _is_committed(self, id_: str) -> bool:
        try:
            status = await self.value("transaction_status", id_)
        except asyncpg.DataError:  # an id of the future: the server before a failover gave it
            return False
        if status == "in progress":  # of a connection that PostgreSQL has not given up yet
            raise StoreUnavailable
        return bool(status == "committed")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for the block.

        Raises:
            StoreUnavailable: there is none, or it was lost.
        """
        pool = await self._opened()
        try:
            async with pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                with dropped_if_lost(connection):
                    yield connection
        except asyncpg.DataError:
            raise
        except LOSSES as error:
            logger.warning("the store cannot be reached: %s", reason_of(error))
            raise StoreUnavailable from error

    async def _opened(self) -> "asyncpg.Pool[Record]":
        """The pool; the database may start later than its users."""
        try:
            await self.open()
        except SetupError as error:
            logger.error("%s", error)
            raise StoreUnavailable from error
        assert self._pool
        return self._pool

    def _transaction(self, connection: Connection) -> Transaction:
        return Transaction(connection, self.prefix)

    async def _try(self, run: Callable[[Connection], Awaitable[T]]) -> T:
        for _ in range(MAX_TRIES):
            async with self.connection() as connection:
                try:
                    return await run(connection)
                except DeadlockDetectedError as error:
                    deadlock = error
        raise StoreUnavailable from deadlock


class DatabaseStore:
    """A part of a store, over one database; its calls are retried for `retry_s` seconds."""

    def __init__(
        self,
        url: str,
        rules: QueueSettings,
        pool_size: int,
        retry_s: float = 0.0,
        access: Access = Access.MIGRATE,
    ) -> None:
        self.database = Database(url, pool_size, access)
        self.rules = rules
        self.retry_s = retry_s


async def connect(
    url: str, pool_size: int, access: Access
) -> "tuple[asyncpg.Pool[Record], int, str]":
    """Connections to a database, its schema, and what to put before statements that read it.

    Raises:
        SetupError: there is no such database, it is not fit for use, or `access` is not enough.
    """
    reads_only = {"default_transaction_read_only": "on"} if access is Access.READ else None
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
            server_settings=reads_only,
        )
        await pool
    try:
        with explained(url):
            async with pool.acquire() as connection:
                if access is Access.MIGRATE:
                    await migrate(connection)
                version = await version_in(connection)
                check_access(version, access)
                return pool, version, await older_clause(connection)
    except BaseException:
        pool.terminate()
        raise


def check_access(version: int, access: Access) -> None:
    """Refuse a schema that `access` would have to change, or that is of a newer release."""
    check_known(version)
    if version == 0:
        raise SetupError(ABSENT)
    latest = len(migrations("postgres"))
    if version < latest and access is Access.WRITE:
        raise SetupError(older(version, latest))


async def inspect_database(url: str) -> tuple[str, int, float]:
    """The server, the number of the latest migration in the database, and the time of an answer.

    Raises:
        SetupError: it does not answer, or is not fit for use.
    """
    with explained(url):
        check(url)
        connection = await asyncpg.connect(
            url, timeout=CONNECT_TIMEOUT_S, command_timeout=CONNECT_TIMEOUT_S
        )
        try:
            await check_fit(connection)
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                raise SetupError("it is a standby, which takes no writes; give the primary's host")
            before = time.perf_counter()
            version = await version_in(connection)
            answer_s = time.perf_counter() - before
            server = str(await connection.fetchval("SHOW server_version")).split()[0]
            return f"PostgreSQL {server}", version, answer_s
        finally:
            await connection.close()


@contextmanager
def dropped_if_lost(connection: Connection) -> Iterator[None]:
    """Discard a connection that has failed, in whatever state it is."""
    try:
        yield
    except asyncpg.DataError:
        raise
    except LOSSES:
        connection.terminate()
        raise


async def prepare(connection: "asyncpg.Connection[Record]") -> None:
    """Have a new connection plan statements as a queue needs it."""
    await connection.execute(SESSION)


async def leave_as_it_is(connection: "asyncpg.Connection[Record]") -> None:
    """Save the round trip of a reset: nothing here changes a session."""


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what goes wrong while the store is opened into one line for the operator."""
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
        ValueError: there is such a part.
    """
    parts = urlsplit(url)
    if parts.fragment or "@" in parts.path or parts.netloc.count("@") > 1:
        raise ValueError("special characters")


def shown(url: str) -> str:
    """The URL without its password or options."""
    parts = urlsplit(url)
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


def reason_of(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def columns(rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    """A list for each column, as `unnest` takes them."""
    return list(zip(*rows, strict=True))
