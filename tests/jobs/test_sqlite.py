"""The SQLite store alone: one owner, group commits, and files opened for reading."""

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.errors import QueueFull, SetupError, StoreUnavailable
from deployments.jobs.api_key import ApiKey
from deployments.jobs.job import JobOutcome, JobState, Submission
from deployments.jobs.sql import migrations
from deployments.jobs.sqlite import SqliteStore
from deployments.jobs.sqlite import file as sqlite_file
from deployments.jobs.sqlite.file import apply, connect, lock, open_file
from deployments.jobs.sqlite.group_commit import GroupCommit
from deployments.jobs.sqlite.operations import Tables
from deployments.settings import QueueSettings
from tests.jobs.submitter import KEY

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
RULES = QueueSettings()
LEASE_S = 15.0
TIMEOUT_S = 30.0


def submission(num: int, key_id: str = KEY, input: str = "{}") -> Submission:
    """A submission."""
    return Submission(id=f"r{num:06}", key_id=key_id, path="caption", input=input)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a store may be, in a folder that is not there yet."""
    return tmp_path / "state" / "queue.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[SqliteStore]:
    """An empty store and its owner."""
    opened = SqliteStore.open(file, RULES, is_owner=True)
    yield opened
    await opened.close()


# ----------------------------------------------------------------- what survives


async def test_a_store_is_found_as_it_was_left(file: Path) -> None:
    """Jobs, leases and keys outlive the owner."""
    store = SqliteStore.open(file, RULES, is_owner=True)
    await store.submit(submission(1))
    await store.submit(submission(2))
    (claimed,) = await store.claim("worker", 1, LEASE_S)
    await store.add_key(ApiKey(id="a", hash="h"))
    await store.close()
    store = SqliteStore.open(file, RULES, is_owner=True)
    assert await store.finish(claimed.lease, JobOutcome.done({}))
    assert [each.lease.id for each in await store.claim("worker", 9, LEASE_S)] == ["r000002"]
    assert await store.key_by_hash("h")
    await store.close()


def submitting(file: Path, notes: Path) -> "subprocess.Popen[bytes]":
    """A process that submits, and has begun to."""
    command = [sys.executable, "-m", "tests.jobs.submitter", str(file), str(notes)]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + TIMEOUT_S
    while not (notes.exists() and notes.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.slow
async def test_what_was_acknowledged_survives_a_kill(file: Path, tmp_path: Path) -> None:
    """Every submit that returned is found after kill -9, again and again; the lock is free."""
    noted = []
    for num in range(3):
        notes = tmp_path / f"notes {num}"
        with submitting(file, notes) as process:
            await asyncio.sleep(0.1 + num / 10)
            process.kill()
        noted += notes.read_text().splitlines()
    store = SqliteStore.open(file, RULES, is_owner=True)
    kept = {row["id"] async for row in store.read_rows("request")}
    assert len(noted) > 100
    assert set(noted) - kept == set()
    await store.close()


# ------------------------------------------------------------------ temporary stores


def names_in(folder: Path) -> list[str]:
    """The files in a folder."""
    return [file.name for file in folder.iterdir()]


async def test_a_temporary_store_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has no name, so it is gone with its process even when that is killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = SqliteStore.open_temporary(RULES)
    assert names_in(tmp_path) == []
    big = '"' + "x" * 20_000 + '"'
    await asyncio.gather(*(store.submit(submission(num, input=big)) for num in range(300)))
    assert (await store.backlog()).queued == 300
    assert (await store.stats()).free_bytes
    (claimed,) = await store.claim("worker", 1, LEASE_S)
    assert await store.finish(claimed.lease, JobOutcome.done({}))
    await store.close()
    assert names_in(tmp_path) == []


async def test_temporary_stores_are_private() -> None:
    """Each is a store of its own."""
    stores = [SqliteStore.open_temporary(RULES) for _ in range(2)]
    await stores[0].submit(submission(1))
    assert [(await store.backlog()).queued for store in stores] == [1, 0]
    for store in stores:
        await store.close()


# ------------------------------------------------------------------ who may open


def test_a_file_has_one_owner(file: Path, tmp_path: Path) -> None:
    """A second owner gets a one-line error with the remedy."""
    with submitting(file, tmp_path / "notes") as process:
        with pytest.raises(SetupError, match=r"another service has it open; stop that one, or"):
            SqliteStore.open(file, RULES, is_owner=True)
        process.kill()


async def test_an_owner_that_closes_lets_the_next_open(file: Path) -> None:
    """The lock ends with the store."""
    for _ in range(2):
        await SqliteStore.open(file, RULES, is_owner=True).close()


async def test_a_command_can_use_the_file_while_the_owner_runs(
    store: SqliteStore, file: Path
) -> None:
    """The owner sees the rows that another process adds."""
    second = SqliteStore.open(file, RULES)
    await second.add_key(ApiKey(id="a", hash="h"))
    await second.submit(submission(1))
    assert [key.id for key in await store.keys()] == ["a"]
    assert len(await store.claim("worker", 1, LEASE_S)) == 1
    await second.close()


def test_other_users_may_not_read_the_file(file: Path) -> None:
    """It holds secrets and other people's pictures."""
    connection = open_file(file, is_owner=True)
    assert {each.name: each.stat().st_mode & 0o777 for each in file.parent.iterdir()} == {
        "queue.db": 0o600,
        "queue.db-shm": 0o600,
        "queue.db-wal": 0o600,
    }
    connection.close()


def test_all_may_open_a_new_file_at_once(file: Path) -> None:
    """The schema is made once, by the first of several processes."""
    with ThreadPoolExecutor(8) as threads:
        connections = list(threads.map(lambda _: open_file(file, is_owner=False), range(8)))
    for connection in connections:
        assert connection.execute("SELECT count(*) FROM request").fetchone()[0] == 0
        connection.close()


# -------------------------------------------------------------- files with faults


def other_program(file: Path) -> None:
    """A database that is not ours."""
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE bookmark (url TEXT)")
    connection.close()


def newer_release(file: Path) -> None:
    """A database with a schema that is not known yet."""
    connection = open_file(file, is_owner=False)
    connection.execute("PRAGMA user_version = 999")
    connection.close()


def no_database(file: Path) -> None:
    """Something else."""
    file.write_bytes(b"\x89PNG\r\n\x1a\n" * 1000)


def filled(file: Path) -> None:
    """A database of some pages, all in one file."""
    connection = open_file(file, is_owner=False)
    tables = Tables(connection, RULES, time.time)
    for num in range(300):
        tables.submit(submission(num, input='"' + "x" * 1000 + '"'))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def cut_off(file: Path) -> None:
    """A database without its second half."""
    filled(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def overwritten(file: Path) -> None:
    """A database with some pages of nonsense."""
    filled(file)
    whole = bytearray(file.read_bytes())
    whole[40960:61440] = b"\xa5" * 20480
    file.write_bytes(whole)


def folder(file: Path) -> None:
    """A folder where a file should be."""
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (other_program, "it is the database of another program; name another file in store.url"),
        (newer_release, "a newer release wrote it (schema 999, this one knows 4); install that"),
        (no_database, "not a sound SQLite database (file is not a database); move it away"),
        (cut_off, "not a sound SQLite database"),
        (overwritten, "not a sound SQLite database"),
        (folder, "cannot be opened (Is a directory); make it writable, or name another file"),
    ],
)
def test_a_file_that_cannot_be_used(
    file: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    """The error says in one line what is wrong and what to do; the file is unchanged."""
    file.parent.mkdir()
    spoil(file)
    before = file.read_bytes() if file.is_file() else b""
    with pytest.raises(SetupError) as caught:
        SqliteStore.open(file, RULES, is_owner=True)
    message = str(caught.value)
    assert message.startswith(f"store {file}: ")
    assert expected in message
    assert "\n" not in message
    assert (file.read_bytes() if file.is_file() else b"") == before
    with lock(file):  # which the owner that failed has let go
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """The owner and others get an error."""
    (tmp_path / "state").write_text("a file")
    for is_owner in (True, False):
        with pytest.raises(SetupError, match=r"cannot be opened \(.+\); make it writable"):
            SqliteStore.open(tmp_path / "state" / "queue.db", RULES, is_owner=is_owner)


# ------------------------------------------------------------------- group commit


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a database with a table of numbers."""
    opened = connect(tmp_path / "numbers.db")
    opened.execute("PRAGMA journal_mode = WAL").fetchone()
    opened.execute("CREATE TABLE number (n INTEGER PRIMARY KEY, text TEXT)")
    yield opened
    opened.close()


@pytest.fixture
def writer(connection: sqlite3.Connection) -> Iterator[GroupCommit]:
    """A writer on it."""
    started = GroupCommit(connection)
    yield started
    started.close()


def add(connection: sqlite3.Connection, n: int, text: str = "") -> Callable[[], int]:
    """A change that adds `n`."""

    def work() -> int:
        connection.execute("INSERT INTO number VALUES (?, ?)", (n, text))
        return n

    return work


def numbers(connection: sqlite3.Connection) -> list[int]:
    """All that were added."""
    return [n for (n,) in connection.execute("SELECT n FROM number ORDER BY n")]


def blocked(writer: GroupCommit) -> tuple["asyncio.Task[bool]", threading.Event]:
    """A change that blocks the writer until the event is set."""
    opened = threading.Event()
    return asyncio.ensure_future(writer.run(lambda: opened.wait(TIMEOUT_S))), opened


async def test_changes_that_wait_are_one_transaction(
    writer: GroupCommit, connection: sqlite3.Connection
) -> None:
    """Whatever comes while a commit is under way shares the next one."""
    begun: list[str] = []
    connection.set_trace_callback(begun.append)
    waiting, opened = blocked(writer)
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(writer.run(add(connection, n))) for n in range(50)]
    await asyncio.sleep(0)
    opened.set()
    assert await asyncio.gather(*others) == list(range(50))
    assert await waiting
    connection.set_trace_callback(None)
    assert begun.count("COMMIT") in (1, 2)  # 1 when the writer had not begun yet


async def test_a_change_that_fails_is_alone(
    writer: GroupCommit, connection: sqlite3.Connection
) -> None:
    """It is rolled back and gets its own error; the rest of its group is kept."""

    def fails() -> None:
        add(connection, 100)()
        raise QueueFull

    waiting, opened = blocked(writer)
    works = [add(connection, 1), fails, add(connection, 1), add(connection, 2)]
    changes = [asyncio.ensure_future(writer.run(work)) for work in works]
    await asyncio.sleep(0)
    opened.set()
    first, full, twice, second = await asyncio.gather(*changes, return_exceptions=True)
    assert (first, second) == (1, 2)
    assert isinstance(full, QueueFull)
    assert isinstance(twice, StoreUnavailable)
    assert await waiting
    assert numbers(connection) == [1, 2]


async def test_a_change_outlives_its_caller(
    writer: GroupCommit, connection: sqlite3.Connection
) -> None:
    """A change is applied although its caller was cancelled."""
    waiting, opened = blocked(writer)
    change = asyncio.ensure_future(writer.run(add(connection, 1)))
    await asyncio.sleep(0)
    change.cancel()
    opened.set()
    await waiting
    assert await writer.run(lambda: numbers(connection)) == [1]
    assert change.cancelled()


async def test_a_full_disk_is_an_error_and_not_the_end(
    writer: GroupCommit, connection: sqlite3.Connection
) -> None:
    """What does not fit is refused, nothing of it is left, and the next one is written."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = [writer.run(add(connection, n, "x" * 100_000)) for n in range(3)]
    answers = await asyncio.gather(*big, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert await writer.run(add(connection, 9)) == 9
    assert numbers(connection) == [9]


async def test_a_file_that_is_locked_is_an_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another process writes for too long, callers get StoreUnavailable."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.05)
    store = SqliteStore.open(file, RULES, is_owner=True)
    other = connect(file)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await store.submit(submission(1))
    assert await store.status(KEY, "r000001") is None
    other.execute("ROLLBACK")
    other.close()
    assert (await store.submit(submission(1))).created
    await store.close()


async def test_too_many_are_refused(
    writer: GroupCommit, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many changes wait."""
    monkeypatch.setattr("deployments.jobs.sqlite.group_commit.MAX_WAITING", 5)
    waiting, opened = blocked(writer)
    await asyncio.sleep(0.05)  # the writer is blocked now
    changes = [asyncio.ensure_future(writer.run(add(connection, n))) for n in range(8)]
    await asyncio.sleep(0)
    opened.set()
    answers = await asyncio.gather(*changes, return_exceptions=True)
    assert answers[:5] == [0, 1, 2, 3, 4]
    assert [type(answer) for answer in answers[5:]] == [StoreUnavailable] * 3
    await waiting


async def test_reading_does_not_wait_for_writing(store: SqliteStore, file: Path) -> None:
    """A status is read while another process holds the file for writing."""
    await store.submit(submission(1))
    other = connect(file)
    other.execute("BEGIN IMMEDIATE")
    submitting = asyncio.ensure_future(store.submit(submission(2)))
    status = await asyncio.wait_for(store.status(KEY, "r000001"), 2.0)
    assert status
    assert status.state is JobState.QUEUED
    assert not submitting.done()
    other.execute("ROLLBACK")
    other.close()
    assert (await submitting).position == 1


async def test_a_closed_store_is_not_available(file: Path) -> None:
    """Later calls fail; closing finishes what waits, and may be repeated."""
    store = SqliteStore.open(file, RULES, is_owner=True)
    waiting = [asyncio.ensure_future(store.submit(submission(n))) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert all(submitted.created for submitted in await asyncio.gather(*waiting))
    with pytest.raises(StoreUnavailable):
        await store.submit(submission(99))
    with pytest.raises(StoreUnavailable):
        await store.status(KEY, "r000001")
    await store.close()


# -------------------------------------------------------------------- no surprises


class Effort:
    """Counts the steps of SQLite's machine, in hundreds: the same on every computer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._hundreds = 0

    def of(self, work: Callable[[], object]) -> int:
        """The steps that `work` takes."""
        self._hundreds = 0
        self._connection.set_progress_handler(self._count, 100)
        work()
        self._connection.set_progress_handler(None, 100)
        return self._hundreds * 100

    def _count(self) -> int:
        self._hundreds += 1
        return 0


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tables, Effort]]:
    """A queue of 20,000, most of them of a key that is at its limit, all ahead of the others."""
    connection = open_file(tmp_path_factory.mktemp("deep") / "queue.db", is_owner=True)
    tables = Tables(connection, RULES, time.time)
    connection.execute("BEGIN")
    tables.add_key(ApiKey(id="capped", hash="h", concurrency=1))
    for num in range(20_000):
        tables.submit(submission(num, key_id="capped" if num < 19_000 else f"key {num % 10}"))
    tables.claim("worker", 1, LEASE_S)
    connection.execute("COMMIT")
    yield tables, Effort(connection)
    connection.close()


@pytest.mark.slow
def test_a_deep_queue_is_no_effort(deep: tuple[Tables, Effort]) -> None:
    """The cost of a job does not grow with the number of waiting jobs."""
    tables, effort = deep
    assert effort.of(lambda: tables.submit(submission(99_999))) < 1_000
    assert effort.of(lambda: tables.position("r000500")) < 20_000
    assert effort.of(lambda: tables.position("r019999")) < 20_000
    assert effort.of(lambda: tables.rescue(100)) < 1_000
    assert effort.of(lambda: tables.prune(100)) < 1_000
    assert effort.of(lambda: tables.backlog(1000)) < 200_000
    assert effort.of(lambda: tables.stats(10_000, 20)) < 1_000
    assert effort.of(lambda: tables.claim("worker", 32, LEASE_S)) < 20_000


async def test_a_heartbeat_does_not_write_the_input(store: SqliteStore, file: Path) -> None:
    """However large the picture, a heartbeat writes a few pages."""
    await store.submit(submission(1, input='"' + "x" * 5_000_000 + '"'))
    (claimed,) = await store.claim("worker", 1, LEASE_S)
    wal = file.with_name("queue.db-wal")
    before = wal.stat().st_size
    for _ in range(20):
        await store.heartbeat([claimed.lease], LEASE_S)
    assert wal.stat().st_size - before < 1_000_000


def test_the_schema_is_known() -> None:
    """The messages above name the number of migrations."""
    assert len(migrations("sqlite")) == 4


def test_a_file_of_the_first_schema_is_brought_up_to_date(file: Path) -> None:
    """What an older release has queued stays, belongs to no trace, and can be worked on."""
    file.parent.mkdir()
    connection = connect(file)
    apply(connection, *migrations("sqlite")[0])
    connection.execute(
        "INSERT INTO request (id, key_id, path, base_url, priority, max_attempts, webhook_url, "
        "keeps_input, created_at) VALUES ('old', 'key', 'caption', '', 0, 3, 'http://x', 1, 1.0)"
    )
    connection.execute("INSERT INTO input (seq, json) VALUES (1, '{}')")
    connection.close()
    connection = open_file(file, is_owner=True)
    tables = Tables(connection, RULES, time.time)
    [claimed] = tables.claim("worker", 9, LEASE_S)
    assert (claimed.lease.id, claimed.trace) == ("old", "")
    assert tables.finish(claimed.lease, JobOutcome.done({}))
    assert [hook.trace for hook in tables.webhooks(None, 9)] == [""]
    connection.close()


@pytest.mark.parametrize("number", range(1, len(migrations("sqlite"))))
def test_an_answer_of_an_older_schema_has_no_count(file: Path, number: int) -> None:
    """It stays, and nothing is said of its tokens."""
    file.parent.mkdir()
    connection = connect(file)
    for migration in migrations("sqlite")[:number]:
        apply(connection, *migration)
    connection.execute(
        "INSERT INTO request (id, key_id, path, base_url, priority, max_attempts, keeps_input, "
        "created_at, state, status, body, headers, inference_s) VALUES ('old', 'key', 'caption', "
        "'', 0, 3, 1, 1.0, 'done', 200, '{}', '{\"x-florence-model\":\"demo\"}', 0.5)"
    )
    connection.close()
    connection = open_file(file, is_owner=True)
    status = Tables(connection, RULES, time.time).status("key", "old")
    assert status
    assert (status.inference_s, status.num_tokens, status.truncated) == (0.5, None, False)
    assert status.model == "demo"
    connection.close()


@pytest.mark.parametrize("number", range(1, 4))
def test_a_key_of_an_older_schema_has_no_adapter(file: Path, number: int) -> None:
    """It stays, with its limits."""
    file.parent.mkdir()
    connection = connect(file)
    for migration in migrations("sqlite")[:number]:
        apply(connection, *migration)
    connection.execute(
        "INSERT INTO api_key (id, hash, name, concurrency, created_at) "
        "VALUES ('old', 'h', 'n', 2, 1.0)"
    )
    connection.close()
    connection = open_file(file, is_owner=True)
    key = Tables(connection, RULES, time.time).key_by_hash("h")
    assert key
    assert (key.id, key.concurrency, key.adapter) == ("old", 2, "")
    connection.close()


def test_a_temporary_queue_needs_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line with a remedy."""
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    with pytest.raises(SetupError, match="set TMPDIR"):
        SqliteStore.open_temporary(QueueSettings())


def test_a_temporary_queue_that_cannot_be_opened_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner tries again at every call."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise SetupError("no")

    monkeypatch.setattr("deployments.jobs.sqlite.store.open_file", refuse)
    with pytest.raises(SetupError):
        SqliteStore.open_temporary(QueueSettings())
    assert list(tmp_path.iterdir()) == []
