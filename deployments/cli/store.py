"""`florence store`: what a store holds, and its move to another."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.cli.options import (
    StateOption,
    StoreOption,
    command_group,
    opened_store,
    progress,
    run_with_store,
    store_url,
    without_password,
)
from deployments.errors import SetupError
from deployments.jobs.copy import copy_store, count_rows
from deployments.jobs.job import JobState
from deployments.jobs.open import SQLITE
from deployments.jobs.rows import TABLES
from deployments.jobs.sql import migrations
from deployments.jobs.store import RowStore

app = command_group("Check a store, or copy it to another.")


@app.command()
def check(store: StoreOption = None, state: StateOption = None) -> None:
    """Open the store, migrate its schema, and show what is in it."""
    url = store_url(store, state)
    states, rows = run_with_store(url, contents)
    console = Console()
    console.print(f"{without_password(url)}, schema version {schema_version(url)}", markup=False)
    console.print(table(states, rows))


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The URL of the store to copy.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The URL of an empty store.")],
) -> None:
    """Copy a store to another one. Stop the service before, and start it on the copy."""
    refuse_absent(source)
    rows = asyncio.run(copy_between(source, target))
    typer.echo(
        f"Copied {sum(rows.values()):,} rows from {without_password(source)} "
        f"to {without_password(target)}."
    )


def refuse_absent(url: str) -> None:
    """Refuse a SQLite file that does not exist; opening the store would make it.

    Raises:
        SetupError: there is no such file.
    """
    if url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).is_file():
        raise SetupError(f"there is no file {url.removeprefix(SQLITE)}: check SRC")


async def copy_between(source: str, target: str) -> Counter[str]:
    """How many rows of each table were copied.

    Raises:
        SetupError: a store cannot be opened, the target is not empty, or the source changes.
    """
    async with opened_store(source) as old, opened_store(target) as new:
        total = (await count_rows(old)).total()
        with progress("Copying", total) as advance:
            return await copy_store(old, new, advance)


async def contents(store: RowStore) -> tuple[Counter[str], Counter[str]]:
    """How many requests are in each state, and how many rows in each table."""
    states: Counter[str] = Counter()
    async for row in store.read_rows("request"):
        states[row["state"]] += 1
    return states, await count_rows(store)


def schema_version(url: str) -> int:
    """The schema version of an open store: opening it has migrated it."""
    return len(migrations("sqlite" if url.startswith(SQLITE) else "postgres"))


def table(states: Counter[str], rows: Counter[str]) -> Table:
    filled = Table("what", "number")
    filled.columns[1].justify = "right"
    for state in JobState:
        filled.add_row(f"requests {state}", f"{states[state]:,}")
    for name in TABLES[1:]:
        filled.add_row(name.replace("_", " "), f"{rows[name]:,}")
    return filled
