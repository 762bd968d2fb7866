"""The whole store: jobs, webhooks and keys over one database."""

from collections.abc import AsyncIterator, Sequence
from typing import Self

from asyncpg import UniqueViolationError

from deployments.jobs.job import JobStatus, StoredResponse
from deployments.jobs.postgres.keys import Keys
from deployments.jobs.postgres.leases import Leases
from deployments.jobs.postgres.submits import Submits
from deployments.jobs.postgres.webhooks import Webhooks
from deployments.jobs.rows import COLUMNS, response_in, stats_in, status_in
from deployments.jobs.store import MAX_COUNTED, MAX_KEYS, POSITION_CAP, Row, StoreStats
from deployments.jobs.store_retry import retried


class PostgresStore(Submits, Leases, Webhooks, Keys):
    """Jobs, webhooks and keys in PostgreSQL; `Store` says what the methods mean.

    It connects at its first use, because the database may start later than its users; until
    then, and whenever the connection is lost, calls are retried for `retry_s` seconds.
    """

    @property
    def schema(self) -> int:
        """The latest migration in the database."""
        return self.database.schema

    async def open(self) -> Self:
        """The store, connected now.

        Raises:
            SetupError: it cannot be used; the message names the remedy, never the password.
        """
        await self.database.open()
        return self

    @retried
    async def status(self, key_id: str, request_id: str) -> JobStatus | None:
        row = await self.database.row("status", request_id, key_id, POSITION_CAP)
        return None if row is None else status_in(row, row["position"])

    @retried
    async def result(self, key_id: str, request_id: str) -> StoredResponse | None:
        row = await self.database.row("result", request_id, key_id)
        return None if row is None else response_in(row)

    @retried
    async def position(self, request_id: str) -> int | None:
        ahead: int | None = await self.database.value("position", request_id, POSITION_CAP)
        return ahead

    @retried
    async def stats(self, cap: int = MAX_COUNTED, max_keys: int = MAX_KEYS) -> StoreStats:
        counted = await self.database.row("stats", cap)
        assert counted
        return stats_in(counted, await self.database.rows("busiest_keys", max_keys))

    @retried
    async def now(self) -> float:
        return float(await self.database.value("now"))

    @retried
    async def secret(self, name: str, fresh: bytes) -> bytes:
        return bytes.fromhex(await self.database.value("secret", name, fresh.hex()))

    async def read_rows(self, table: str) -> AsyncIterator[Row]:
        columns = ", ".join(COLUMNS[table])
        query = f"{self.database.prefix}SELECT {columns} FROM {table} ORDER BY seq"
        async with self.database.connection() as connection, connection.transaction():
            async for row in connection.cursor(query):
                yield dict(row)

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        columns = COLUMNS[table]
        places = ", ".join(f"${nth}" for nth, _ in enumerate(columns, 1))
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
        values = [tuple(row[column] for column in columns) for row in rows]
        try:
            async with self.database.connection() as connection, connection.transaction():
                await connection.executemany(insert, values)
        except UniqueViolationError as error:
            raise ValueError(f"{table}: a row is there already ({error.detail})") from None

    async def close(self) -> None:
        """Finish what is under way, and let go of the connections."""
        await self._submits.finished()
        await self._finishes.finished()
        await self.database.close()
