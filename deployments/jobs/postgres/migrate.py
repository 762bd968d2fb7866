"""Brings the tables up to date, also when several processes start at the same time."""

import asyncpg
from asyncpg import Record
from asyncpg.pool import PoolConnectionProxy

from deployments.errors import SetupError
from deployments.jobs.older_schema import with_clause
from deployments.jobs.sql import migrations

LOCK = "SELECT pg_advisory_xact_lock(hashtext(current_schema()), 0)"
KNOWN = "SELECT to_regclass('schema_version') IS NOT NULL"
MAKE = "CREATE TABLE schema_version (number integer PRIMARY KEY)"
LATEST = "SELECT coalesce(max(number), 0) FROM schema_version"
COLUMNS = """
SELECT table_name, array_agg(column_name::text) AS names FROM information_schema.columns
WHERE table_schema = current_schema() GROUP BY table_name
"""
NOTE = "INSERT INTO schema_version (number) VALUES ($1)"
OLDEST = 130000  # PostgreSQL 13


async def migrate(connection: "PoolConnectionProxy[Record]") -> None:
    """Apply the migrations that the database has not seen, each in a transaction of its own.

    Raises:
        SetupError: the database has seen more than there are, or is too old.
    """
    await check_fit(connection)
    while await advance(connection):
        pass


async def check_fit(
    connection: "asyncpg.Connection[Record] | PoolConnectionProxy[Record]",
) -> None:
    """Refuse a server that is too old, and a connection without a schema."""
    if int(await connection.fetchval("SHOW server_version_num")) < OLDEST:
        raise SetupError(f"PostgreSQL {OLDEST // 10000} or newer is needed; upgrade the server")
    if await connection.fetchval("SELECT current_schema()") is None:
        raise SetupError("its search_path names no schema that exists; create the schema")


async def version_in(connection: "asyncpg.Connection[Record] | PoolConnectionProxy[Record]") -> int:
    """The number of the latest migration in a database, 0 for none; nothing is changed."""
    is_known = await connection.fetchval(KNOWN)
    return int(await connection.fetchval(LATEST)) if is_known else 0


async def older_clause(connection: "PoolConnectionProxy[Record]") -> str:
    """What to put before a query, so that it finds this release's columns in an older schema."""
    return with_clause({row["table_name"]: row["names"] for row in await connection.fetch(COLUMNS)})


async def advance(connection: "PoolConnectionProxy[Record]") -> bool:
    """Apply the next migration; False when there is none."""
    known = migrations("postgres")
    async with connection.transaction():
        await connection.execute(LOCK)
        version = await seen(connection)
        check_known(version)
        if version == len(known):
            return False
        number, sql = known[version]
        await connection.execute(sql)
        await connection.execute(NOTE, number)
        return True


def check_known(version: int) -> None:
    """Refuse the schema of a newer release."""
    latest = len(migrations("postgres"))
    if version > latest:
        raise SetupError(
            f"its schema {version} is newer than this release's, {latest}; "
            "run the newer release, or use another database"
        )


async def seen(connection: "PoolConnectionProxy[Record]") -> int:
    """The number of the latest migration in the database, 0 for none."""
    if not await connection.fetchval(KNOWN):
        await connection.execute(MAKE)
    return int(await connection.fetchval(LATEST))
