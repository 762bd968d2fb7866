"""The SQLite file: its lock, its schema, and what makes a file unusable."""

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import IO

from deployments.errors import SetupError
from deployments.jobs.access import ABSENT, older
from deployments.jobs.older_schema import views
from deployments.jobs.sql import migrations

APPLICATION = 0x464C5331  # "FLS1", in the header of every file of ours
BUSY_TIMEOUT_S = 5.0  # for a command that writes while the owner does
MIB = 1024 * 1024

# NORMAL would lose the latest commits in a power cut, FULL makes each one durable.
WRITING = f"""
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = OFF;
PRAGMA journal_size_limit = {64 * MIB};
PRAGMA cache_size = -{32 * 1024};
"""


def lock(file: Path) -> IO[str]:
    """Become the owner of `file`, until what is returned is closed.

    Raises:
        SetupError: another process is, or the folder cannot be written.
    """
    path = file.with_name(f"{file.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held = path.open("w")
    except OSError as error:
        raise unusable(file, error) from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held.close()
        raise SetupError(
            f"store {file}: another service has it open; "
            "stop that one, or give this one a folder of its own with --state, or another store.url"
        ) from None
    return held


def open_file(file: Path, *, is_owner: bool) -> sqlite3.Connection:
    """A connection for writing, to a file that has the latest schema.

    Raises:
        SetupError: it is not ours, damaged, of a newer version, or cannot be written.
    """
    try:
        make_private(file)
        connection = connect(file)
    except (OSError, sqlite3.Error) as error:
        raise unusable(file, error) from None
    try:
        prepare(file, connection, is_owner)
    except (SetupError, sqlite3.Error) as error:
        connection.close()
        raise error if isinstance(error, SetupError) else unusable(file, error) from None
    return connection


def connect(file: Path, *, reads_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode whose rows have names, for any one thread at a time."""
    connection = sqlite3.connect(
        file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    if reads_only:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA schema_version").fetchone()  # opens the file now
    return connection


def connect_to_read(file: Path) -> sqlite3.Connection:
    """A connection to a file of this release's schema or an older one, which it does not change.

    Raises:
        SetupError: there is no such file, it is not ours, damaged, or of a newer version.
    """
    try:
        connection = open_unchanged(file)
    except sqlite3.Error as error:
        raise unusable(file, error) from None
    try:
        check_ours(file, connection)
        check_known(file, version_of(connection))
        for view in views(columns_of(connection)):
            connection.execute(view)
        connection.execute("PRAGMA query_only = ON")
    except (SetupError, sqlite3.Error) as error:
        connection.close()
        raise error if isinstance(error, SetupError) else unusable(file, error) from None
    return connection


def open_unchanged(file: Path) -> sqlite3.Connection:
    """A connection that neither changes the file nor leaves another one beside it.

    Raises:
        SetupError: there is no such file.
        sqlite3.Error: it cannot be opened.
    """
    file = file.absolute()
    if not file.is_file():
        raise SetupError(f"store {file}: {ABSENT}")
    # A file that nobody has open has no log; SQLite would make one, and an index, to read it.
    is_idle = not file.with_name(f"{file.name}-wal").exists()
    uri = f"{file.as_uri()}?mode=ro{'&immutable=1' if is_idle else ''}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    return connection


def columns_of(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """The names of the columns of each table."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        table: [row["name"] for row in connection.execute(f"PRAGMA table_info({table})")]
        for (table,) in tables
    }


def refuse_migration(file: Path) -> None:
    """Refuse a file that would have to be made or migrated.

    Raises:
        SetupError: it is not there, or has another schema than this release's.
    """
    with closing(connect_to_read(file)) as connection:
        version, latest = version_of(connection), len(migrations("sqlite"))
    if version < latest:
        raise SetupError(f"store {file}: {older(version, latest)}")


def make_private(file: Path) -> None:
    """Make the file if it is not there, readable by its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def prepare(file: Path, connection: sqlite3.Connection, is_owner: bool) -> None:
    """Check the file, and bring its schema up to date."""
    check_ours(file, connection)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise SetupError(f"store {file}: this file system has no shared memory; use a local disk")
    connection.executescript(WRITING)
    migrate(file, connection)
    if is_owner:
        check_whole(file, connection)


def check_ours(file: Path, connection: sqlite3.Connection) -> None:
    """Refuse the file of another program.

    Raises:
        SetupError: it has tables, but not our mark.
    """
    # In this order: another process may be making the tables, and the mark comes with them.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and mark != APPLICATION:
        raise SetupError(
            f"store {file}: it is the database of another program; name another file in store.url"
        )


def check_whole(file: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file with damaged pages.

    Raises:
        SetupError: there are some.
    """
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise damaged(file, verdict)


def migrate(file: Path, connection: sqlite3.Connection) -> None:
    """Apply the migrations that the file has not seen, all or none.

    Raises:
        SetupError: the file has seen more than there are.
    """
    latest = len(migrations("sqlite"))
    if version_of(connection) == latest:
        return
    connection.execute("BEGIN IMMEDIATE")  # another process may be at it
    try:
        version = version_of(connection)
        check_known(file, version)
        for number, script in migrations("sqlite"):
            if number > version:
                apply(connection, number, script)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def check_known(file: Path, version: int) -> None:
    """Refuse the schema of a newer release.

    Raises:
        SetupError: it is one.
    """
    latest = len(migrations("sqlite"))
    if version > latest:
        raise SetupError(
            f"store {file}: a newer release wrote it (schema {version}, this one knows "
            f"{latest}); install that release, or name another file in store.url"
        )


def apply(connection: sqlite3.Connection, number: int, script: str) -> None:
    """Run one migration inside the transaction that is under way."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(f"PRAGMA user_version = {number}")
    connection.execute(f"PRAGMA application_id = {APPLICATION}")


def version_of(connection: sqlite3.Connection) -> int:
    """The number of the latest migration that the file has seen; 0 for a new file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def inspect_file(file: Path) -> int | None:
    """The number of the latest migration that `file` has seen; None when it can be made.

    Raises:
        SetupError: it cannot be made or written, is not ours, or is damaged.
    """
    file = file.absolute()
    parent = next(each for each in file.parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise not_writable(file, parent)
    if not file.exists():
        return None
    if not os.access(file, os.W_OK):
        raise not_writable(file, file)
    try:
        with closing(open_unchanged(file)) as connection:
            check_ours(file, connection)
            check_whole(file, connection)
            return version_of(connection)
    except sqlite3.Error as error:
        raise unusable(file, error) from None


def not_writable(file: Path, path: Path) -> SetupError:
    return SetupError(
        f"store {file}: {path} cannot be written; "
        "make it writable, or name another file in store.url"
    )


def unusable(file: Path, error: Exception) -> SetupError:
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return damaged(file, str(error))
    reason = error.strerror if isinstance(error, OSError) else error
    return SetupError(
        f"store {file}: cannot be opened ({reason}); "
        "make it writable, or name another file in store.url"
    )


def damaged(file: Path, reason: str) -> SetupError:
    first_line = reason.splitlines()[0]
    return SetupError(
        f"store {file}: not a sound SQLite database ({first_line}); "
        "move it away to begin with an empty one, or restore a backup"
    )
