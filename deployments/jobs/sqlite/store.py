"""The store in one SQLite file, served by one process.

Changes go through one thread, which commits for all that wait (writer.py).
What only reads has connections of its own, so it never waits for a commit (readers.py).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TypeVar

from deployments.jobs.api_key import ApiKey, Usage
from deployments.jobs.job import (
    Backlog,
    Cancellation,
    Heartbeat,
    Job,
    JobOutcome,
    JobState,
    JobStatus,
    Lease,
    Rescued,
    StoredResponse,
    Submission,
    Submitted,
)
from deployments.jobs.sqlite.file import connect, lock, open_file
from deployments.jobs.sqlite.group_commit import Writer
from deployments.jobs.sqlite.readers import Readers
from deployments.jobs.sqlite.tables import Tables
from deployments.jobs.store import MAX_COUNTED, MAX_KEYS, Row, StoreStats
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import DeliveryResult, PublicKey, Webhook, WebhookState

NUM_READERS = 2
CHUNK = 100  # rows that are read at a time; each may hold an image

T = TypeVar("T")


class SqliteStore:
    """Requests, webhooks and keys in one file; Store says what the methods mean."""

    def __init__(
        self, writer: Writer, tables: Tables, readers: Readers[Tables], closing: ExitStack
    ) -> None:
        self._writer = writer
        self._tables = tables  # the writer's
        self._readers = readers
        self._closing = closing

    @classmethod
    def open(
        cls,
        file: Path,
        rules: QueueSettings,
        clock: Callable[[], float] = time.time,
        *,
        is_owner: bool = False,
    ) -> Self:
        """The store in `file`, which is made if it is not there; an owner holds a lock on it.

        Raises:
            SetupError: it cannot be used; the message names the remedy.
        """
        with ExitStack() as opened:
            if is_owner:
                opened.enter_context(lock(file))
            writing = open_file(file, is_owner=is_owner)
            opened.callback(writing.close)
            reading = [connect(file, reads_only=True) for _ in range(NUM_READERS)]
            for connection in reading:
                opened.callback(connection.close)
            writer = Writer(writing)
            opened.callback(writer.close)
            readers = Readers([Tables(connection, rules, clock) for connection in reading])
            opened.callback(readers.close)
            return cls(writer, Tables(writing, rules, clock), readers, opened.pop_all())

    async def submit(self, submission: Submission) -> Submitted:
        """Queue a request."""
        return await self._write(lambda tables: tables.submit(submission))

    async def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        """Take requests that wait."""
        return await self._write(lambda tables: tables.claim(owner, limit, lease_s))

    async def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        """Extend leases."""
        return await self._write(lambda tables: tables.heartbeat(leases, lease_s))

    async def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        """End a request."""
        return await self._write(lambda tables: tables.finish(lease, outcome))

    async def retry_or_finish(
        self, lease: Lease, outcome: JobOutcome, delay_s: float = 0.0
    ) -> JobState | None:
        """End an attempt."""
        return await self._write(lambda tables: tables.retry_or_finish(lease, outcome, delay_s))

    async def requeue(self, lease: Lease, delay_s: float = 0.0) -> bool:
        """Hand a request back."""
        return await self._write(lambda tables: tables.requeue(lease, delay_s))

    async def cancel(self, key_id: str, request_id: str) -> Cancellation:
        """Cancel a request."""
        return await self._write(lambda tables: tables.cancel(key_id, request_id))

    async def rescue(self, limit: int = 100) -> Rescued:
        """Care for requests that nobody cares for."""
        return await self._write(lambda tables: tables.rescue(limit))

    async def prune(self, limit: int = 500) -> list[str]:
        """Forget what is over."""
        return await self._write(lambda tables: tables.prune(limit))

    async def status(self, key_id: str, request_id: str) -> JobStatus | None:
        """How a request stands."""
        return await self._readers.run(lambda tables: tables.status(key_id, request_id))

    async def result(self, key_id: str, request_id: str) -> StoredResponse | None:
        """The response of a request."""
        return await self._readers.run(lambda tables: tables.result(key_id, request_id))

    async def position(self, request_id: str) -> int | None:
        """How many are ahead."""
        return await self._readers.run(lambda tables: tables.position(request_id))

    async def backlog(self, cap: int = 1000) -> Backlog:
        """What a claim of `cap` would take."""
        return await self._readers.run(lambda tables: tables.backlog(cap))

    async def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        """Take deliveries that are due."""
        return await self._write(lambda tables: tables.claim_webhooks(limit, lease_s))

    async def record_delivery(self, webhook_id: str, token: int, result: DeliveryResult) -> bool:
        """Note what came of a delivery."""
        return await self._write(lambda tables: tables.record_delivery(webhook_id, token, result))

    async def webhooks(self, state: WebhookState | None = None, limit: int = 100) -> list[Webhook]:
        """The latest webhooks."""
        return await self._readers.run(lambda tables: tables.webhooks(state, limit))

    async def retry_webhook(self, webhook_id: str) -> bool:
        """Make a webhook due again."""
        return await self._write(lambda tables: tables.retry_webhook(webhook_id))

    async def signing_keys(self) -> list[PublicKey]:
        """The public halves of all webhook keys."""
        return await self._readers.run(lambda tables: tables.signing_keys())

    async def put_signing_keys(self, keys: Sequence[PublicKey]) -> None:
        """Add or change keys."""
        await self._write(lambda tables: tables.put_signing_keys(keys))

    async def add_key(self, key: ApiKey) -> None:
        """Keep a new key."""
        await self._write(lambda tables: tables.add_key(key))

    async def key_by_hash(self, key_hash: str) -> ApiKey | None:
        """The key with this hash."""
        return await self._readers.run(lambda tables: tables.key_by_hash(key_hash))

    async def keys(self) -> list[ApiKey]:
        """All keys."""
        return await self._readers.run(lambda tables: tables.keys())

    async def revoke_key(self, key_id: str) -> bool:
        """Let the key open nothing any more."""
        return await self._write(lambda tables: tables.revoke_key(key_id))

    async def replace_key_hash(self, key_id: str, key_hash: str) -> bool:
        """Give the key another secret."""
        return await self._write(lambda tables: tables.replace_key_hash(key_id, key_hash))

    async def check_rate_limit(self, key_id: str, rate: float, burst: int) -> float:
        """Count one request against a rate."""
        return await self._write(lambda tables: tables.check_rate_limit(key_id, rate, burst))

    async def acquire_slot(self, key_id: str, run_id: str, ttl_s: float) -> bool:
        """Take a place."""
        return await self._write(lambda tables: tables.acquire_slot(key_id, run_id, ttl_s))

    async def release_slot(self, run_id: str) -> None:
        """Give the place back."""
        await self._write(lambda tables: tables.release_slot(run_id))

    async def add_usage(self, usages: Sequence[Usage]) -> None:
        """Add to what keys have used."""
        await self._write(lambda tables: tables.add_usage(usages))

    async def usage(self, since_day: str = "", key_id: str | None = None) -> list[Usage]:
        """What was used."""
        return await self._readers.run(lambda tables: tables.usage(since_day, key_id))

    async def now(self) -> float:
        """The store's clock."""
        return self._tables.now()

    async def stats(self, cap: int = MAX_COUNTED, max_keys: int = MAX_KEYS) -> StoreStats:
        """What there is, in numbers."""
        return await self._readers.run(lambda tables: tables.stats(cap, max_keys))

    async def secret(self, name: str, fresh: bytes) -> bytes:
        """The secret called `name`."""
        known = await self._readers.run(lambda tables: tables.secret(name))
        if known is not None:
            return known
        return await self._write(lambda tables: tables.add_secret(name, fresh))

    async def read_rows(self, table: str) -> AsyncIterator[Row]:
        """Every row of a table."""
        after = 0
        while chunk := await self._read_chunk(table, after):
            for after, row in chunk:  # noqa: B007
                yield row

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows of another store."""
        await self._write(lambda tables: tables.write_rows(table, rows))

    async def close(self) -> None:
        """Let go of the file."""
        await asyncio.to_thread(self._closing.close)

    async def _write(self, work: Callable[[Tables], T]) -> T:
        return await self._writer.run(lambda: work(self._tables))

    async def _read_chunk(self, table: str, after: int) -> list[tuple[int, Row]]:
        return await self._readers.run(lambda tables: tables.read_rows(table, after, CHUNK))
