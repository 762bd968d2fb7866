"""`florence store`: what a store holds, its schema, and its move to another."""

import asyncio
from collections import Counter
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
    store_settings,
    store_url,
    without_password,
)
from deployments.jobs.access import Access
from deployments.jobs.copy import copy_store, count_rows
from deployments.jobs.job import JobState
from deployments.jobs.open import inspect_store, open_store
from deployments.jobs.rows import TABLES
from deployments.jobs.store import SqlStore
from deployments.settings import QueueSettings, StoreSettings

app = command_group("Check a store, migrate its schema, or copy it to another.")


@app.command()
def check(store: StoreOption = None, state: StateOption = None) -> None:
    """Show what is in the store, and the version of its schema."""
    url = store_url(store, state)
    version, states, rows = run_with_store(url, contents)
    console = Console()
    console.print(f"{without_password(url)}, schema version {version}", markup=False)
    console.print(table(states, rows))


@app.command()
def migrate(store: StoreOption = None, state: StateOption = None) -> None:
    """Make the store, or bring its schema up to date; older releases then refuse it.

    A service does the same when it starts. Stop the service before, if its store is SQLite.
    """
    url = store_url(store, state)
    before, after = asyncio.run(migrated(store_settings(url)))
    name = without_password(url)
    if before == after:
        typer.echo(f"{name} has schema {after} already.")
    elif before:
        typer.echo(f"{name} now has schema {after}, not {before}. Older releases refuse it.")
    else:
        typer.echo(f"{name} is made, with schema {after}.")


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The URL of the store to copy.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The URL of an empty store.")],
) -> None:
    """Copy a store to another one. Stop the service before, and start it on the copy."""
    rows = asyncio.run(copy_between(source, target))
    typer.echo(
        f"Copied {sum(rows.values()):,} rows from {without_password(source)} "
        f"to {without_password(target)}."
    )


async def migrated(settings: StoreSettings) -> tuple[int, int]:
    """The schema before and after it was brought up to date.

    Raises:
        SetupError: the store cannot be used, or a service has its file open.
    """
    found = await inspect_store(settings)
    store = await open_store(settings, QueueSettings(), is_owner=True)
    await store.close()
    return found.schema if found else 0, store.schema


async def copy_between(source: str, target: str) -> Counter[str]:
    """How many rows of each table were copied.

    Raises:
        SetupError: a store cannot be opened, the target is not empty, or the source changes.
    """
    async with opened_store(source) as old:
        found = await inspect_store(store_settings(target))
        access = Access.WRITE if found and found.schema else Access.MIGRATE
        async with opened_store(target, access) as new:
            total = (await count_rows(old)).total()
            with progress("Copying", total) as advance:
                return await copy_store(old, new, advance)


async def contents(store: SqlStore) -> tuple[int, Counter[str], Counter[str]]:
    """The schema, how many requests are in each state, and how many rows in each table."""
    states: Counter[str] = Counter()
    async for row in store.read_rows("request"):
        states[row["state"]] += 1
    return store.schema, states, await count_rows(store)


def table(states: Counter[str], rows: Counter[str]) -> Table:
    filled = Table("what", "number")
    filled.columns[1].justify = "right"
    for state in JobState:
        filled.add_row(f"requests {state}", f"{states[state]:,}")
    for name in TABLES[1:]:
        filled.add_row(name.replace("_", " "), f"{rows[name]:,}")
    return filled
