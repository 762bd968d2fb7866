"""Opens the store that a URL names, or inspects it without changing anything."""

import asyncio
from dataclasses import dataclass

from deployments.jobs.access import Access
from deployments.jobs.sql import migrations
from deployments.jobs.store import SqlStore, Store
from deployments.settings import QueueSettings, StoreSettings

SQLITE = "sqlite:///"
MEMORY = "memory:"  # a temporary file


@dataclass(frozen=True)
class StoreInfo:
    """What is at a URL: the server, its schema, this release's, and how long an answer took."""

    server: str
    schema: int
    latest: int
    answer_s: float = 0.0

    @property
    def is_current(self) -> bool:
        """Whether this release can open it without changing it."""
        return self.schema == self.latest


def latest_schema(url: str) -> int:
    """The number of the latest migration of this release, for the store at `url`."""
    return len(migrations("postgres" if url.startswith("postgres") else "sqlite"))


async def open_store(
    settings: StoreSettings,
    queue: QueueSettings,
    *,
    is_owner: bool = False,
    access: Access = Access.MIGRATE,
) -> SqlStore:
    """The store at `settings.url`, which is made and migrated only if `access` says so.

    The owner of a SQLite file holds a lock on it; a command on the same machine may open the file
    at the same time, for a moment.

    Raises:
        SetupError: it cannot be opened; the message names the remedy.
    """
    if settings.is_postgres:
        from deployments.jobs.postgres import PostgresStore

        pool_size = settings.pool_size if access is Access.MIGRATE else 1
        return await PostgresStore(settings.url, queue, pool_size, access=access).open()
    from deployments.jobs.sqlite import SqliteStore

    if settings.file is None:
        return await asyncio.to_thread(SqliteStore.open_temporary, queue)
    return await asyncio.to_thread(
        SqliteStore.open, settings.file, queue, is_owner=is_owner, access=access
    )


def replica_store(settings: StoreSettings, queue: QueueSettings, retry_s: float = 0.0) -> Store:
    """The store as a replica uses it: PostgreSQL directly, SQLite through the owner of its file.

    Nothing is waited for: the store may start later than the replica. Calls are retried for
    `retry_s` seconds while it is unavailable.
    """
    if settings.is_postgres:
        from deployments.jobs.postgres import PostgresStore

        return PostgresStore(settings.url, queue, settings.pool_size, retry_s)
    from deployments.jobs.sqlite.owner_actor import owner_client

    return owner_client(settings, queue, retry_s)


async def inspect_store(settings: StoreSettings) -> StoreInfo | None:
    """What is at `settings.url`; None for a file that is not there, and can be made.

    Raises:
        SetupError: it does not answer, or cannot be used; the message names the remedy.
    """
    if settings.file:
        from deployments.jobs.sqlite.file import inspect_file

        version = await asyncio.to_thread(inspect_file, settings.file)
        return None if version is None else StoreInfo("SQLite", version, len(migrations("sqlite")))
    from deployments.jobs.postgres.database import inspect_database

    server, version, answer_s = await inspect_database(settings.url)
    return StoreInfo(server, version, len(migrations("postgres")), answer_s)
