"""Stores to be tested, each with a clock that a test advances."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

from deployments.jobs.sqlite import SqliteStore
from deployments.jobs.store import RowStore
from deployments.settings import QueueSettings
from tests.jobs import postgres
from tests.jobs.memory import MemoryStore

KINDS = ("memory", "sqlite", "postgres")
RULES = QueueSettings()
START = 1_700_000_000.0


class Bench(Protocol):
    """A store and its clock."""

    @property
    def store(self) -> RowStore:
        """The store."""

    async def advance(self, seconds: float) -> None:
        """Let time pass."""

    async def close(self) -> None:
        """Close the store, and remove it."""


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self._now = START

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class LocalBench:
    """A store of this process."""

    def __init__(self, store: RowStore, clock: Clock) -> None:
        self.store = store
        self._clock = clock

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._clock.advance(seconds)

    async def close(self) -> None:
        """Close the store's files."""
        await self.store.close()


class Benches:
    """Opens empty stores.

    Args:
        folder: where SQLite files go.
        url: a PostgreSQL server, for PostgreSQL stores.
    """

    def __init__(self, folder: Path, url: str | None) -> None:
        self._folder = folder
        self._url = url
        self._numbers = count()
        self._opened = AsyncExitStack()

    async def open(self, kind: str, rules: QueueSettings = RULES) -> Bench:
        """An empty store of one of KINDS; closed with this."""
        bench = await self._open(kind, rules)
        self._opened.push_async_callback(bench.close)
        return bench

    async def close(self) -> None:
        """Close all that were opened."""
        await self._opened.aclose()

    async def _open(self, kind: str, rules: QueueSettings) -> Bench:
        clock = Clock()
        if kind == "memory":
            return LocalBench(MemoryStore(rules, clock), clock)
        if kind == "sqlite":
            file = self._folder / f"{next(self._numbers)}.db"
            return LocalBench(SqliteStore.open(file, rules, clock, is_owner=True), clock)
        assert self._url
        return await postgres.Bench.open(self._url, rules)


@asynccontextmanager
async def benches_in(folder: Path, url: str | None) -> AsyncIterator[Benches]:
    """Benches that are closed after the block."""
    benches = Benches(folder, url)
    try:
        yield benches
    finally:
        await benches.close()
