"""How workers take requests from the queue and keep them: exact limits, and nobody starves.

All that starts something does so under one lock, so what it has counted stays true until it
is done. Whatever else happens meanwhile only makes room.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from asyncpg import Record

from deployments.jobs import logs
from deployments.jobs.job import Backlog, Heartbeat, Job, Lease
from deployments.jobs.postgres.database import Database, Transaction
from deployments.jobs.postgres.part import CLAIMS, Part

WINDOW = 4  # a claim looks at so many times as many as it wants, for some may have no room


class Claiming(Part):
    """Leases on requests."""

    async def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        """Take requests that wait."""
        if limit <= 0:
            return []
        return await self._database.together(partial(take, owner, limit, lease_s))

    async def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        """Extend leases."""
        ids, tokens = [lease.id for lease in leases], [lease.token for lease in leases]
        rows = await self._database.rows("heartbeat", ids, tokens, lease_s)
        held = {Lease(row["id"], row["token"]): bool(row["cancel_asked"]) for row in rows}
        return [Heartbeat(lease, lease in held, held.get(lease, False)) for lease in leases]

    async def backlog(self, cap: int = 1000) -> Backlog:
        """What a claim of `cap` would take."""
        now = float(await self._database.value("now"))
        found, is_all = await front(self._database, now, cap, window=cap)
        if is_all:
            return Backlog(len(found), max((now - row["created_at"] for row in found), default=0.0))
        row = await self._database.row("backlog_by_key", now, cap)
        assert row
        return Backlog(row["queued"], row["oldest_s"])


async def take(owner: str, limit: int, lease_s: float, transaction: Transaction) -> list[Job]:
    """Choose under the lock, then take what nobody else has locked meanwhile."""
    now = await transaction.value("lock", CLAIMS)
    chosen = await choose(transaction, now, limit)
    if not chosen:
        return []
    ids = [row["id"] for row in chosen]
    lines = [logs.encode([logs.started(row["attempts"] + 1)], now) for row in chosen]
    rows = await transaction.rows("take", ids, lines, owner, now, lease_s)
    taken = {row["id"]: claimed(row, now) for row in rows}
    return [taken[id_] for id_ in ids if id_ in taken]


async def choose(transaction: Transaction, now: float, limit: int) -> Sequence[Record]:
    """The first `limit` requests that may run, in order."""
    found, is_all = await front(transaction, now, limit, window=WINDOW * limit)
    return found if is_all else await transaction.rows("front_by_key", now, limit)


async def front(
    database: Database | Transaction, now: float, limit: int, window: int
) -> tuple[list[Record], bool]:
    """Those of the first `window` that may run, and whether no others need be looked for."""
    rows = await database.rows("front", now, window)
    fitting = with_room(rows)[:limit]
    return fitting, len(fitting) == limit or len(rows) < window


def with_room(rows: Iterable[Record]) -> list[Record]:
    """Of each key no more than it has room for, which its first row says."""
    room: dict[str, int | None] = {}
    fitting = []
    for row in rows:
        left = room.setdefault(row["key_id"], row["room"])
        if left is None or left > 0:
            fitting.append(row)
            room[row["key_id"]] = None if left is None else left - 1
    return fitting


def claimed(row: Record, now: float) -> Job:
    """What the worker gets."""
    return Job(
        lease=Lease(row["id"], row["token"]),
        attempt=row["attempts"],
        key_id=row["key_id"],
        path=row["path"],
        input=row["input"] or "",
        base_url=row["base_url"],
        priority=row["priority"],
        files_ttl_s=row["files_ttl_s"],
        waited_s=now - row["created_at"],
        trace=row["trace"],
    )
