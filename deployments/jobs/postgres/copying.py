"""Rows as they are, for copies from one store into another."""

from collections.abc import AsyncIterator, Sequence

from asyncpg import UniqueViolationError

from deployments.jobs.columns import COLUMNS
from deployments.jobs.postgres.part import Part
from deployments.jobs.store import Row


class Copying(Part):
    """Whole tables."""

    async def read_rows(self, table: str) -> AsyncIterator[Row]:
        """Every row of a table."""
        async with self._database.connection() as connection, connection.transaction():
            async for row in connection.cursor(reading(table)):
                yield dict(row)

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows of another store."""
        values = [tuple(row[column] for column in COLUMNS[table]) for row in rows]
        try:
            async with self._database.connection() as connection, connection.transaction():
                await connection.executemany(writing(table), values)
        except UniqueViolationError as error:
            raise ValueError(f"{table}: a row is there already ({error.detail})") from None


def reading(table: str) -> str:
    """The statement that reads a table in the order of insertion."""
    return f"SELECT {', '.join(COLUMNS[table])} FROM {table} ORDER BY seq"


def writing(table: str) -> str:
    """The statement that adds a row to a table."""
    places = ", ".join(f"${nth}" for nth, _ in enumerate(COLUMNS[table], 1))
    return f"INSERT INTO {table} ({', '.join(COLUMNS[table])}) VALUES ({places})"
