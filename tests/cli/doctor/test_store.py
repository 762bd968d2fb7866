"""Stores that are new, old, of the future, somebody else's, broken, away or out of time."""

import asyncio
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from deployments.cli.doctor.check import safely
from deployments.cli.doctor.clock import agreement
from deployments.cli.doctor.store import clock, judged, store
from deployments.cli.doctor.verdict import Kind, Verdict
from deployments.cli.options import run_with_store
from deployments.jobs.inspect import Look
from deployments.jobs.statements import migrations
from deployments.jobs.store import Store
from tests.cli.doctor.conftest import sqlite_at, subject
from tests.jobs.postgres import Bench, with_schema

LATEST = len(migrations("sqlite"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store of this release."""
    made = tmp_path / "queue.db"

    async def ask(opened: Store) -> float:
        return await opened.now()

    run_with_store(f"sqlite:///{made}", ask)
    return made


def looked(file: Path) -> Verdict:
    """What the check says of a file."""
    return safely(lambda: store(sqlite_at(file)))


def set_version(file: Path, number: int) -> None:
    """Let a file be of another release."""
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA user_version = {number}")
    connection.close()


def version_of(file: Path) -> int:
    """The schema that a file has."""
    with sqlite3.connect(file) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(found)


def test_a_store_of_this_release_is_fine(file: Path) -> None:
    """Its schema is told."""
    found = looked(file)
    assert (found.kind, found.said) == (Kind.OK, f"sqlite:///{file}, SQLite, schema {LATEST}")


def test_a_store_that_is_not_there_is_made_later(tmp_path: Path) -> None:
    """Not by a look."""
    found = looked(tmp_path / "deep" / "queue.db")
    assert found.kind is Kind.OK
    assert "is made at the first start" in found.said
    assert list(tmp_path.iterdir()) == []


def test_an_older_store_is_left_as_it_is(file: Path) -> None:
    """It will be migrated, so there is something to do before."""
    set_version(file, 1)
    found = looked(file)
    assert found.kind is Kind.WARN
    assert f"schema 1 of {LATEST}" in found.said
    assert "back it up" in found.remedy
    assert version_of(file) == 1


def test_a_newer_store_fails(file: Path) -> None:
    """This release would not start on it."""
    set_version(file, LATEST + 1)
    found = looked(file)
    assert found.kind is Kind.FAIL
    assert f"schema {LATEST + 1} of a newer release" in found.said
    assert "run the newer release" in found.remedy


def test_a_file_of_another_program_fails(tmp_path: Path) -> None:
    """It has tables, and not our mark."""
    file = tmp_path / "photos.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE photo (id)")
    connection.close()
    assert looked(file).kind is Kind.FAIL
    assert "the database of another program" in looked(file).said


def test_a_broken_file_fails(tmp_path: Path) -> None:
    """With what to do about it."""
    file = tmp_path / "queue.db"
    file.write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    assert looked(file).kind is Kind.FAIL
    assert "restore a backup" in looked(file).said


def test_a_place_where_no_file_can_be_fails() -> None:
    """Found out without trying."""
    found = looked(Path("/dev/null/queue.db"))
    assert found.kind is Kind.FAIL
    assert "/dev/null cannot be written; make it writable" in found.said


def test_a_store_in_memory_is_forgotten() -> None:
    """That is worth a word."""
    assert store(subject({"store": {"url": "memory:"}})).kind is Kind.WARN


def test_a_file_on_another_node_is_not_looked_for(tmp_path: Path) -> None:
    """The service has it, wherever that runs."""
    there = subject({"store": {"url": f"sqlite:///{tmp_path}/queue.db"}}, is_elsewhere=True)
    assert store(there).kind is Kind.SKIP


def test_a_server_that_is_away_fails() -> None:
    """Without its password in the line."""
    away = subject({"store": {"url": "postgresql://anna:secret@127.0.0.1:1/florence"}})
    found = safely(lambda: store(away))
    assert found.kind is Kind.FAIL
    assert "127.0.0.1:1" in found.said
    assert "that the server runs" in found.said
    assert "secret" not in found.said


def test_a_server_that_is_far_away_is_told() -> None:
    """Each submit waits for it several times."""
    found = judged("postgresql://db", Look("PostgreSQL 16", 2, 2, answer_s=0.2))
    assert found.kind is Kind.WARN
    assert "answers in 200 ms" in found.said


@pytest.fixture
def empty_schema(postgres: str) -> Iterator[str]:
    """The URL of a schema without tables."""
    name = f"test_{secrets.token_hex(8)}"

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(postgres)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run(f"CREATE SCHEMA {name}"))
    yield with_schema(postgres, name)
    asyncio.run(run(f"DROP SCHEMA {name} CASCADE"))


def test_an_empty_database_is_fine(empty_schema: str) -> None:
    """It is still empty after the look."""
    empty = subject({"store": {"url": empty_schema}})
    for _ in range(2):
        found = store(empty)
        assert found.kind is Kind.OK
        assert "empty, the first start makes its tables" in found.said
    assert clock(empty).kind is Kind.SKIP


@pytest.mark.anyio
async def test_a_database_has_a_schema_and_a_clock(bench: Bench) -> None:
    """Of this release, of a newer and of an older one; in time, and not."""
    here = subject({"store": {"url": bench.url}})
    found = await asyncio.to_thread(store, here)
    assert found.kind is Kind.OK
    assert "PostgreSQL" in found.said
    assert "answers in" in found.said
    assert (await asyncio.to_thread(clock, here)).said == "that of the database agrees"

    await bench.advance(90)
    late = await asyncio.to_thread(clock, here)
    assert (late.kind, "NTP" in late.remedy) == (Kind.FAIL, True)
    assert "90.0 s before ours" in late.said

    await bench.connection.execute("INSERT INTO schema_version VALUES (99)")
    assert (await asyncio.to_thread(store, here)).kind is Kind.FAIL
    await bench.connection.execute("DELETE FROM schema_version WHERE number > 1")
    assert (await asyncio.to_thread(store, here)).kind is Kind.WARN
    assert await bench.connection.fetchval("SELECT max(number) FROM schema_version") == 1


@pytest.mark.parametrize(
    ("ahead_s", "grain_s", "kind"),
    [
        (0.1, 0.0, Kind.OK),
        (-1.9, 0.0, Kind.OK),
        (2.5, 1.0, Kind.OK),
        (2.5, 0.0, Kind.WARN),
        (-61.0, 0.0, Kind.FAIL),
    ],
)
def test_clocks_may_differ_a_little(ahead_s: float, grain_s: float, kind: Kind) -> None:
    """Not more than they were read by."""
    assert agreement("it", ahead_s, grain_s).kind is kind
