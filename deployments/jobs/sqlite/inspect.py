"""The schema of a file, read without changing it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from deployments.errors import SetupError
from deployments.jobs.sqlite.file import (
    BUSY_TIMEOUT_S,
    check_ours,
    check_whole,
    unusable,
    version_of,
)


def version_in(file: Path) -> int | None:
    """The number of the latest migration that `file` has seen; None when it can be made.

    Raises:
        SetupError: it cannot be made or written, is not ours, or is damaged.
    """
    file = file.absolute()
    parent = next(each for each in file.parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise read_only(file, parent)
    if not file.exists():
        return None
    if not os.access(file, os.W_OK):
        raise read_only(file, file)
    try:
        uri = f"{file.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
            check_ours(file, connection)
            check_whole(file, connection)
            return version_of(connection)
    except sqlite3.Error as error:
        raise unusable(file, error) from None


def read_only(file: Path, path: Path) -> SetupError:
    """The error for a `path` by which `file` would be made or written, and cannot be."""
    return SetupError(
        f"store {file}: {path} cannot be written; "
        "make it writable, or name another file in store.url"
    )
