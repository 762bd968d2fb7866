"""Reads a store of an older release without changing it.

What its tables lack is given the default that a migration would give it. The defaults are those
of SQLite, where all migrations are applied to an empty database in memory; tables and columns are
the same in every store.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from functools import cache
from typing import NamedTuple

from deployments.jobs.rows import COLUMNS
from deployments.jobs.sql import migrations

POSTGRES_TYPES = {"INTEGER": "bigint", "REAL": "double precision", "TEXT": "text"}


class Column(NamedTuple):
    """A column as SQLite has it, its default as SQL."""

    name: str
    type: str
    default: str


def views(known: Mapping[str, Collection[str]]) -> Iterator[str]:
    """For SQLite, temporary views over the tables that lack columns; `known` are those they have.

    They stand before the tables of the same name, and are this connection's alone.
    """
    for table, lacking in lacks(known):
        values = ", ".join(
            f"CAST({each.default} AS {each.type}) AS {each.name}" for each in lacking
        )
        rows = f"rowid AS rowid, {table}.*, {values} FROM main.{table}"
        nothing = f"NULL AS rowid, {values} WHERE false"
        yield f"CREATE TEMP VIEW {table} AS SELECT {rows if table in known else nothing}"


def with_clause(known: Mapping[str, Collection[str]]) -> str:
    """For PostgreSQL, what to put before a query; empty if no table lacks a column."""
    queries = []
    for table, lacking in lacks(known):
        values = ", ".join(
            f"CAST({c.default} AS {POSTGRES_TYPES[c.type]}) AS {c.name}" for c in lacking
        )
        rows = f"{table}.*, {values} FROM {table}"
        nothing = f"NULL::bigint AS seq, {values} WHERE false"
        queries.append(f"{table} AS (SELECT {rows if table in known else nothing})")
    return f"WITH {', '.join(queries)} " if queries else ""


def lacks(known: Mapping[str, Collection[str]]) -> Iterator[tuple[str, list[Column]]]:
    """The tables that lack columns, or are not there, with those columns."""
    for table, columns in latest_columns().items():
        if lacking := [each for each in columns if each.name not in known.get(table, ())]:
            yield table, lacking


@cache
def latest_columns() -> dict[str, list[Column]]:
    """The columns of each table that is in every store, as this release has them."""
    with closing(sqlite3.connect(":memory:")) as latest:
        for _, script in migrations("sqlite"):
            latest.executescript(script)
        return {
            table: [
                Column(name, type_, default or "NULL")
                for _, name, type_, _, default, _ in latest.execute(f"PRAGMA table_info({table})")
                if name in columns
            ]
            for table, columns in COLUMNS.items()
        }
