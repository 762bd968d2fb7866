"""SQL in files: what is named is found, what is found is used, and SQLite understands it."""

import re
import sqlite3
from pathlib import Path

import pytest

from deployments.jobs import sql as module
from deployments.jobs.rows import COLUMNS, TABLES
from deployments.jobs.sql import migrations, statements

JOBS = Path(module.__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the files of a dialect called `lisp`."""
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    statements.cache_clear()
    migrations.cache_clear()
    (tmp_path / "lisp").mkdir()
    return tmp_path / "lisp"


def test_statements_have_names(folder: Path) -> None:
    """Each is what stands between its name and the next; what stands before the first is not."""
    (folder / "queries.sql").write_text(
        "-- about all\n\n-- name: one (of two)\n-- why\nSELECT 1\n\n-- name: two\nSELECT\n  2;\n"
    )
    assert statements("lisp") == {"one": "-- why\nSELECT 1", "two": "SELECT\n  2;"}


def test_migrations_are_in_order(folder: Path) -> None:
    """They are numbered from 1, without a gap."""
    for name in ("002_more", "001_schema"):
        (folder / f"{name}.sql").write_text(name)
    assert migrations("lisp") == ((1, "001_schema"), (2, "002_more"))
    migrations.cache_clear()
    (folder / "004_gap.sql").write_text("")
    with pytest.raises(AssertionError):
        migrations("lisp")


@pytest.fixture
def connection() -> sqlite3.Connection:
    """An empty database with the latest schema."""
    opened = sqlite3.connect(":memory:")
    for _, script in migrations("sqlite"):
        opened.executescript(script)
    return opened


@pytest.mark.parametrize("name", statements("sqlite"))
def test_sqlite_understands(connection: sqlite3.Connection, name: str) -> None:
    """Every statement fits the schema."""
    sql = statements("sqlite")[name]
    values = dict.fromkeys(re.findall(r":(\w+)", sql))
    assert connection.execute(f"EXPLAIN {sql}", values).fetchall()
    connection.close()


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_statement_is_used(dialect: str) -> None:
    """A statement that no code names is removed."""
    code = "".join(file.read_text() for file in (JOBS / dialect).glob("*.py"))
    assert [name for name in statements(dialect) if f'"{name}"' not in code] == []


@pytest.mark.parametrize("table", TABLES)
def test_tables_have_their_columns(connection: sqlite3.Connection, table: str) -> None:
    """Those that are copied, in SQLite but for the input, and an order of insertion."""
    found = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
    assert found - {"seq"} == set(COLUMNS[table]) - {"input"}
    assert connection.execute(f"SELECT rowid FROM {table}").fetchall() == []
    connection.close()
