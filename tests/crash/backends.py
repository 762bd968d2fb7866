"""The processes behind the connections of a PostgreSQL server of our own, and how they die."""

import asyncio
import os
import signal
from contextlib import suppress

import asyncpg

OTHERS = "backend_type = 'client backend' AND pid <> pg_backend_pid()"


def kill_backends(url: str) -> None:
    """Kill the service's backends with SIGKILL, after which the server starts itself anew."""
    for pid in asyncio.run(ask(url, f"SELECT pid FROM pg_stat_activity WHERE {OTHERS}")):
        with suppress(ProcessLookupError):  # the first death makes the server end the others
            os.kill(pid, signal.SIGKILL)


def terminate_backends(url: str) -> None:
    """Cut every connection of the service, as a failover does."""
    asyncio.run(ask(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}"))


async def ask(url: str, question: str) -> list[int]:
    """The first column of the answer, which is not empty: somebody is connected."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(question)
    await connection.close()
    assert rows, "nobody is connected"
    return [int(row[0]) for row in rows]
