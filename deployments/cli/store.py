"""`florence store`: what a store holds, and its move to another."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from deployments.cli.options import State, StoreUrl
from deployments.cli.stores import opened, run_with_store, shown, store_url
from deployments.errors import SetupError
from deployments.jobs.copy import copy_store, count_rows
from deployments.jobs.job import JobState
from deployments.jobs.open import SQLITE
from deployments.jobs.statements import migrations
from deployments.jobs.store import SCHEMA_TABLES, Store
from deployments.settings import state_home

app = typer.Typer(no_args_is_help=True, help="Look into the store, or move it.")


@app.command()
def check(store: StoreUrl = None, state: State = None) -> None:
    """Open the store, bring its schema up to date, and show what is in it."""
    url = store_url(store, state or state_home())
    states, rows = run_with_store(url, contents)
    console = Console()
    console.print(f"{shown(url)}, schema version {schema_version(url)}", markup=False)
    console.print(table(states, rows))


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The URL of the store to copy.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The URL of an empty store.")],
) -> None:
    """Copy everything into another store; stop the service before, and start it on the copy."""
    refuse_absent(source)
    rows = asyncio.run(copy_between(source, target))
    typer.echo(f"Copied {sum(rows.values()):,} rows from {shown(source)} to {shown(target)}.")


def refuse_absent(url: str) -> None:
    """Do nothing when there is something to copy: opening a SQLite store would make its file.

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
    async with opened(source) as old, opened(target) as new:
        total = (await count_rows(old)).total()
        with progress(total) as advance:
            return await copy_store(old, new, advance)


async def contents(store: Store) -> tuple[Counter[str], Counter[str]]:
    """How many requests are in each state, and how many rows in each table."""
    states: Counter[str] = Counter()
    async for row in store.read_rows("request"):
        states[row["state"]] += 1
    return states, await count_rows(store)


def schema_version(url: str) -> int:
    """The version that an open store has: opening it has brought it there."""
    return len(migrations("sqlite" if url.startswith(SQLITE) else "postgres"))


def table(states: Counter[str], rows: Counter[str]) -> Table:
    """A row for each state of requests, and for each other table."""
    filled = Table("what", "number")
    filled.columns[1].justify = "right"
    for state in JobState:
        filled.add_row(f"requests {state}", f"{states[state]:,}")
    for name in SCHEMA_TABLES[1:]:
        filled.add_row(name.replace("_", " "), f"{rows[name]:,}")
    return filled


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; yields what moves it on by so many rows."""
    console = Console(stderr=True)
    columns = TextColumn("Copying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown_ = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown_) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
