"""Copies a whole store into an empty one, such as a laptop's SQLite file into PostgreSQL.

Stop the service before. The counts are compared at the end, which finds jobs that came or went,
but not those that have changed.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable

from deployments.errors import SetupError
from deployments.jobs.rows import TABLES
from deployments.jobs.store import Row, RowStore

BATCH = 500  # rows of one transaction


async def copy_store(
    source: RowStore, target: RowStore, advance: Callable[[int], None]
) -> Counter[str]:
    """How many rows of each table were copied; `advance` is called with the size of each batch.

    Raises:
        SetupError: the target is not empty, or the counts differ in the end.
    """
    await refuse_filled(target)
    for table in TABLES:
        async for rows in batches(source, table):
            await target.write_rows(table, rows)
            advance(len(rows))
    return await agreed(source, target)


async def count_rows(store: RowStore) -> Counter[str]:
    counts: Counter[str] = Counter()
    for table in TABLES:
        async for _ in store.read_rows(table):
            counts[table] += 1
    return counts


async def refuse_filled(target: RowStore) -> None:
    """Refuse a target that is not empty.

    Raises:
        SetupError: a table has rows; the message names it.
    """
    for table, count in (await count_rows(target)).items():
        if count:
            raise SetupError(f"the target has {count} rows in {table}: copy into an empty store")


async def batches(source: RowStore, table: str) -> AsyncIterator[list[Row]]:
    batch: list[Row] = []
    async for row in source.read_rows(table):
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def agreed(source: RowStore, target: RowStore) -> Counter[str]:
    """The counts of both, when they agree.

    Raises:
        SetupError: they do not; the message names the first table that differs.
    """
    there, here = await count_rows(source), await count_rows(target)
    for table in TABLES:
        if there[table] != here[table]:
            raise SetupError(
                f"table {table} has {there[table]} rows, its copy {here[table]}: "
                "stop the service, empty the target and copy again"
            )
    return here
