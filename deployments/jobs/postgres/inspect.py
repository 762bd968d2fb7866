"""A database's version and schema, read without changing it."""

import time

import asyncpg

from deployments.errors import SetupError
from deployments.jobs.postgres.database import CONNECT_TIMEOUT_S, check, explained
from deployments.jobs.postgres.schema import KNOWN, LATEST, check_fit


async def ask(url: str) -> tuple[str, int, float]:
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
            known = await connection.fetchval(KNOWN)
            answer_s = time.perf_counter() - before
            version = int(await connection.fetchval(LATEST)) if known else 0
            server = str(await connection.fetchval("SHOW server_version")).split()[0]
            return f"PostgreSQL {server}", version, answer_s
        finally:
            await connection.close()
