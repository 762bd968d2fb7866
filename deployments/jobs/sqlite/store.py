"""The store in one SQLite file, in this process.

Changes go through one thread, which commits them in groups (group_commit.py).
Calls that only read have connections of their own, so they never wait for a commit (readers.py).
"""

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from deployments.errors import SetupError
from deployments.jobs.access import Access
from deployments.jobs.sqlite.file import (
    connect,
    connect_to_read,
    lock,
    open_file,
    refuse_migration,
    unusable,
    version_of,
)
from deployments.jobs.sqlite.group_commit import GroupCommit
from deployments.jobs.sqlite.operations import Tables
from deployments.jobs.sqlite.readers import Readers
from deployments.jobs.store import Row
from deployments.settings import QueueSettings

NUM_READERS = 2
CHUNK = 100  # rows that are read at a time; each may hold an image

P = ParamSpec("P")
T = TypeVar("T")


def reads(
    work: Callable[Concatenate[Tables, P], T],
) -> Callable[Concatenate["SqliteStore", P], Coroutine[Any, Any, T]]:
    """A method that does `work` on a connection for reading."""

    @wraps(work)
    async def call(self: "SqliteStore", /, *args: P.args, **options: P.kwargs) -> T:
        return await self.readers.run(lambda tables: work(tables, *args, **options))

    return call


def writes(
    work: Callable[Concatenate[Tables, P], T],
) -> Callable[Concatenate["SqliteStore", P], Coroutine[Any, Any, T]]:
    """A method that does `work` in a transaction, and returns when it is durable."""

    @wraps(work)
    async def call(self: "SqliteStore", /, *args: P.args, **options: P.kwargs) -> T:
        return await self.commits.run(lambda: work(self.tables, *args, **options))

    return call


class SqliteStore:
    """Jobs, webhooks and keys in one file; `Store` says what the methods mean."""

    def __init__(
        self,
        commits: GroupCommit,
        tables: Tables,
        readers: Readers,
        schema: int,
        closing: ExitStack,
    ) -> None:
        self.commits = commits
        self.tables = tables  # of the connection that writes
        self.readers = readers
        self.schema = schema
        self._closing = closing

    @classmethod
    def open(
        cls,
        file: Path,
        rules: QueueSettings,
        clock: Callable[[], float] = time.time,
        *,
        is_owner: bool = False,
        access: Access = Access.MIGRATE,
    ) -> Self:
        """The store in `file`; an owner holds a lock on it.

        Raises:
            SetupError: it cannot be used; the message names the remedy.
        """
        with ExitStack() as opened:
            if is_owner:
                opened.enter_context(lock(file))
            if access is Access.WRITE:
                refuse_migration(file)
            reads_only = access is Access.READ
            writing = connect_to_read(file) if reads_only else open_file(file, is_owner=is_owner)
            opened.callback(writing.close)
            reading = []
            for _ in range(NUM_READERS):
                reading.append(connect_to_read(file) if reads_only else reader_of(file))
                opened.callback(reading[-1].close)
            commits = GroupCommit(writing)
            opened.callback(commits.close)
            readers = Readers([Tables(connection, rules, clock) for connection in reading])
            opened.callback(readers.close)
            tables, schema = Tables(writing, rules, clock), version_of(writing)
            return cls(commits, tables, readers, schema, opened.pop_all())

    @classmethod
    def open_temporary(cls, rules: QueueSettings, clock: Callable[[], float] = time.time) -> Self:
        """An empty store in a file without a name.

        No other process can open it, and it goes with this process, however that ends.
        """
        try:
            handle, name = tempfile.mkstemp(prefix="florence-store-", suffix=".db")
        except OSError as error:
            raise SetupError(f"no temporary file for the queue ({error}): set TMPDIR") from None
        os.close(handle)
        try:
            return cls.open(Path(name), rules, clock)
        finally:
            for suffix in ("", "-wal", "-shm"):
                Path(name + suffix).unlink(missing_ok=True)

    submit = writes(Tables.submit)
    claim = writes(Tables.claim)
    heartbeat = writes(Tables.heartbeat)
    finish = writes(Tables.finish)
    retry_or_finish = writes(Tables.retry_or_finish)
    requeue = writes(Tables.requeue)
    cancel = writes(Tables.cancel)
    rescue = writes(Tables.rescue)
    prune = writes(Tables.prune)
    status = reads(Tables.status)
    result = reads(Tables.result)
    position = reads(Tables.position)
    backlog = reads(Tables.backlog)
    stats = reads(Tables.stats)

    claim_webhooks = writes(Tables.claim_webhooks)
    record_delivery = writes(Tables.record_delivery)
    webhooks = reads(Tables.webhooks)
    retry_webhook = writes(Tables.retry_webhook)
    signing_keys = reads(Tables.signing_keys)
    put_signing_keys = writes(Tables.put_signing_keys)

    add_key = writes(Tables.add_key)
    key_by_hash = reads(Tables.key_by_hash)
    keys = reads(Tables.keys)
    revoke_key = writes(Tables.revoke_key)
    replace_key_hash = writes(Tables.replace_key_hash)
    check_rate_limit = writes(Tables.check_rate_limit)
    acquire_slot = writes(Tables.acquire_slot)
    release_slot = writes(Tables.release_slot)
    add_usage = writes(Tables.add_usage)
    usage = reads(Tables.usage)

    write_rows = writes(Tables.write_rows)

    async def now(self) -> float:
        """The clock of this machine."""
        return self.tables.now()

    async def secret(self, name: str, fresh: bytes) -> bytes:
        """The secret called `name`; only the first call writes."""
        known = await self._secret(name)
        return known if known is not None else await self._add_secret(name, fresh)

    _secret = reads(Tables.secret)
    _add_secret = writes(Tables.add_secret)

    async def read_rows(self, table: str) -> AsyncIterator[Row]:
        after = 0
        while chunk := await self._read_rows(table, after, CHUNK):
            for after, row in chunk:  # noqa: B007
                yield row

    _read_rows = reads(Tables.read_rows)

    async def close(self) -> None:
        await asyncio.to_thread(self._closing.close)


def reader_of(file: Path) -> sqlite3.Connection:
    """A connection that reads a file of this release's schema.

    Raises:
        SetupError: the file cannot be read.
    """
    try:
        return connect(file, reads_only=True)
    except sqlite3.Error as error:
        raise unusable(file, error) from None
