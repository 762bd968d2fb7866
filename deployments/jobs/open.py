"""Opens the store that a URL names."""

import asyncio
from pathlib import Path

from deployments.errors import SetupError
from deployments.jobs.store import Store
from deployments.settings import QueueSettings, StoreSettings

SQLITE = "sqlite:///"
MEMORY = "memory:"


async def open_store(
    settings: StoreSettings, queue: QueueSettings, *, is_owner: bool = False
) -> Store:
    """The store at `settings.url`, its schema brought up to date.

    A SQLite file is served by one owner, who holds a lock on it; others, such as a command on
    the same machine, may open it for a moment beside the owner.

    Raises:
        SetupError: it cannot be opened; the message names the remedy.
    """
    url = settings.url
    if url == MEMORY:
        from deployments.jobs.memory import MemoryStore

        return MemoryStore(queue)
    if url.startswith(SQLITE):
        from deployments.jobs.sqlite import SqliteStore

        file = Path(url.removeprefix(SQLITE))
        return await asyncio.to_thread(SqliteStore.open, file, queue, is_owner=is_owner)
    if url.startswith(("postgresql://", "postgres://")):
        from deployments.jobs.postgres import PostgresStore

        return await PostgresStore.open(url, queue, settings.pool_size)
    raise SetupError(f"store {url}: write postgresql://…, sqlite:///FILE or memory:")
