"""Another process reads the file: at once what the owner has committed, and never in its way."""

import sqlite3
from pathlib import Path

import pytest

from deployments.jobs.job import Cancellation, JobState, Submission
from deployments.jobs.sqlite import SqliteStore
from deployments.jobs.sqlite.readers import ReadOnlyReader
from deployments.settings import QueueSettings

pytestmark = pytest.mark.anyio

RULES = QueueSettings()


def submission(name: str) -> Submission:
    """A job of one key."""
    return Submission(id=name, key_id="key", path="caption", input="{}")


def state(reader: ReadOnlyReader, name: str, key_id: str = "key") -> JobState | None:
    """The state that the reader finds."""
    status = reader.read(lambda tables: tables.status(key_id, name))
    return status.state if status else None


async def test_what_was_acknowledged_is_seen(tmp_path: Path) -> None:
    """Each commit, in the moment after it."""
    file = tmp_path / "queue.db"
    store = SqliteStore.open(file, RULES, is_owner=True)
    reader = ReadOnlyReader(file, RULES)
    for number in range(50):
        name = f"r{number}"
        await store.submit(submission(name))
        assert reader.read(lambda tables, name=name: tables.position(name)) == number  # type: ignore[misc]
        assert state(reader, name) is JobState.QUEUED
    assert await store.cancel("key", "r0") is Cancellation.REQUESTED
    assert state(reader, "r0") is JobState.CANCELLED
    assert state(reader, "r1", "other") is None
    await store.close()


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """The owner makes it; until then the owner is asked."""
    file = tmp_path / "queue.db"
    reader = ReadOnlyReader(file, RULES)
    with pytest.raises(sqlite3.Error):
        state(reader, "a")
    assert not file.exists()

    store = SqliteStore.open(file, RULES, is_owner=True)
    await store.submit(submission("a"))
    assert state(reader, "a") is JobState.QUEUED
    await store.close()


async def test_a_new_owner_is_seen(tmp_path: Path) -> None:
    """The same reader reads on, whichever process writes."""
    file = tmp_path / "queue.db"
    reader = ReadOnlyReader(file, RULES)
    for name in ("first", "second"):
        store = SqliteStore.open(file, RULES, is_owner=True)
        await store.submit(submission(name))
        assert state(reader, name) is JobState.QUEUED
        await store.close()


async def test_it_changes_nothing(tmp_path: Path) -> None:
    """The file is opened for reading only."""
    file = tmp_path / "queue.db"
    await SqliteStore.open(file, RULES).close()
    with pytest.raises(sqlite3.Error):
        ReadOnlyReader(file, RULES).read(lambda tables: tables.submit(submission("a")))
