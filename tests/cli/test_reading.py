"""Commands that only read change nothing: no byte of an older release's store, no folder."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias, TypeVar

import asyncpg
import pytest

from deployments.jobs.sql import migrations
from deployments.jobs.sqlite.file import apply, connect
from tests.cli.conftest import Florence
from tests.jobs.postgres import postgres, schema_of, with_schema

__all__ = ["postgres"]

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

READING = (
    ("usage",),
    ("usage", "--csv"),
    ("keys", "list"),
    ("keys", "list", "--json"),
    ("webhooks", "list"),
    ("webhooks", "list", "--dead", "--json"),
    ("webhooks", "keys"),
    ("store", "check"),
)
WRITING = (
    ("keys", "create"),
    ("keys", "revoke", "anna"),
    ("keys", "rotate", "anna"),
    ("webhooks", "retry", "hook"),
    ("webhooks", "rotate", "--now"),
)
ROWS = (
    "INSERT INTO api_key (id, hash, name, created_at) VALUES ('anna', 'h', 'Anna', 1.0)",
    "INSERT INTO usage (key_id, day, path, requests, images, model_s) "
    "VALUES ('anna', '2030-01-01', 'caption', 7, 7, 1.5)",
    "INSERT INTO webhook (id, key_id, url, body, state, attempts, token, next_at, created_at) "
    "VALUES ('hook', 'anna', 'http://h.example', '{}', 'dead', 3, 3, 1.0, 1.0)",
    "INSERT INTO signing_key (kid, x, state, changed_at) VALUES ('k1', 'x', 'active', 1.0)",
    "INSERT INTO request (id, key_id, path, base_url, priority, max_attempts, keeps_input, "
    "created_at) VALUES ('old', 'anna', 'caption', '', 0, 3, 1, 1.0)",
)
SHOWN = {"usage": "caption", "keys": "anna", "webhooks": "", "store": "requests queued"}
NUMBERS = [number for number, _ in migrations("sqlite")]


def old_file(file: Path, number: int) -> str:
    """A store as a release wrote it whose latest migration was `number`."""
    file.parent.mkdir(parents=True)
    with closing(connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        for migration in migrations("sqlite")[:number]:
            apply(connection, *migration)
        for statement in ROWS:
            connection.execute(statement)
    return f"sqlite:///{file}"


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, and what is in it."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check_reading(florence: Florence, url: str, number: int) -> None:
    """Each command answers, and says when the store is an older release's."""
    for words in READING:
        left = florence(*words, "--store", url)
        assert (left.code, words) == (0, words), left.err
        assert SHOWN[words[0]] in left.out
        is_older = f"schema {number}, this one writes {len(NUMBERS)}. It is only read" in left.err
        assert is_older == (number < len(NUMBERS))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_file_of_an_older_release_keeps_every_byte(
    florence: Florence, tmp_path: Path, number: int
) -> None:
    """Nor is there a new file, such as a log, beside it."""
    url = old_file(tmp_path / "store" / "queue.db", number)
    before = contents(tmp_path)
    check_reading(florence, url, number)
    left = florence("doctor", "--store", url, "--json")
    assert f"schema {number}" in left.out
    assert contents(tmp_path) == before


@pytest.mark.parametrize("number", NUMBERS)
def test_a_file_that_its_service_has_open_is_read(
    florence: Florence, tmp_path: Path, number: int
) -> None:
    """With what the service has written last, and without a word to it."""
    file = tmp_path / "store" / "queue.db"
    url = old_file(file, number)
    with closing(connect(file)) as service:
        service.execute("UPDATE usage SET requests = 1234567")
        before = {name: each for name, each in contents(tmp_path).items() if "-shm" not in name}
        check_reading(florence, url, number)
        assert "1,234,567" in florence("usage", "--store", url).out
        after = {name: each for name, each in contents(tmp_path).items() if "-shm" not in name}
    assert after == before


@pytest.mark.parametrize("number", NUMBERS[:-1])
def test_a_command_that_writes_leaves_an_older_store_alone(
    florence: Florence, tmp_path: Path, number: int
) -> None:
    """It says how the store is migrated, and works afterwards."""
    file = tmp_path / "store" / "queue.db"
    url = old_file(file, number)
    before = contents(tmp_path)
    for words in WRITING:
        left = florence(*words, "--store", url)
        assert (left.code, left.out) == (2, "")
        assert "call `florence store migrate`, after which that release refuses it" in left.err
    assert contents(tmp_path) == before

    left = florence("store", "migrate", "--store", url)
    assert f"now has schema {len(NUMBERS)}, not {number}. Older releases refuse it." in left.out
    assert florence("keys", "revoke", "anna", "--store", url).code == 0


@pytest.mark.parametrize("words", [*READING, *WRITING], ids=" ".join)
def test_a_store_that_is_not_there_is_not_made(
    florence: Florence, tmp_path: Path, words: Sequence[str]
) -> None:
    """The line says where it was looked for; neither folder nor file comes into being."""
    for option in ((), ("--state", str(tmp_path / "nowhere"))):
        left = florence(*words, *option)
        folder = tmp_path / ("nowhere" if option else "florence")
        assert (left.code, left.out) == (2, "")
        assert f"store {folder / 'queue.db'}: there is none; name the service's with" in left.err
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_newer_release_is_refused(florence: Florence, tmp_path: Path) -> None:
    """What its tables mean cannot be known."""
    file = tmp_path / "store" / "queue.db"
    url = old_file(file, len(NUMBERS))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 999")
    left = florence("usage", "--store", url)
    assert left.code == 2
    assert "a newer release wrote it (schema 999" in left.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, *NUMBERS])
def test_a_database_of_an_older_release_stays_as_it_is(
    florence: Florence, tmp_path: Path, postgres: str, number: int
) -> None:
    """Its tables, their columns, every row and the version; an empty one stays empty."""
    url = with_schema(postgres, f"old_{number}")
    in_database(url, lambda connection: old_database(connection, schema_of(url), number))
    before = in_database(url, everything)
    if number:
        check_reading(florence, url, number)
    for words in [] if number else READING:
        left = florence(*words, "--store", url)
        assert left.code == 2
        assert "there is none; name the service's with --store" in left.err
    if number < len(NUMBERS):
        assert all(florence(*words, "--store", url).code == 2 for words in WRITING)
    assert in_database(url, everything) == before

    assert florence("store", "migrate", "--store", url).code == 0
    assert florence("keys", "create", "--store", url).code == 0


async def old_database(connection: Connection, schema: str, number: int) -> None:
    """A schema as a release wrote it whose latest migration was `number`."""
    await connection.execute(f"CREATE SCHEMA {schema}")
    if not number:
        return
    await connection.execute("CREATE TABLE schema_version (number integer PRIMARY KEY)")
    for nth, sql in migrations("postgres")[:number]:
        await connection.execute(sql)
        await connection.execute("INSERT INTO schema_version VALUES ($1)", nth)
    for statement in ROWS:
        await connection.execute(statement)


async def everything(connection: Connection) -> list[object]:
    """Every object of the schema, and every row of its tables."""
    found = await connection.fetch(
        "SELECT relname, relkind FROM pg_class WHERE relnamespace = current_schema()::regnamespace "
        "ORDER BY relname"
    )
    rows = [await connection.fetch(f"SELECT * FROM {name}") for name, kind in found if kind == b"r"]
    return [*found, *rows]


def in_database(url: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """What `work` makes of a connection."""

    async def run() -> T:
        connection = await asyncpg.connect(url)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())
