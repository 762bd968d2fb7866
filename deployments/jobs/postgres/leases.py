"""How workers claim jobs, extend their leases, and end or requeue them.

Limits are exact and no key starves another: jobs and synchronous runs start under one lock, so the
counts stay true until the transaction ends. All other changes only free slots.
An end or a requeue locks the rows, decides on each job, and writes all rows together.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import partial
from operator import attrgetter
from typing import Any

from asyncpg import Record

from deployments.jobs import job_log as logs
from deployments.jobs.coalescer import Coalescer
from deployments.jobs.job import (
    Backlog,
    Cancellation,
    Heartbeat,
    Job,
    JobOutcome,
    JobState,
    Lease,
    Rescued,
)
from deployments.jobs.postgres.database import (
    CLAIMS,
    Database,
    DatabaseStore,
    Transaction,
    columns,
)
from deployments.jobs.rows import job_in
from deployments.jobs.store_retry import retried
from deployments.jobs.transitions import (
    REVOKED_KEY_TTL_S,
    WEBHOOK_TTL_S,
    End,
    Requeue,
    Transition,
    after_failure,
    after_loss,
    after_return,
    cancelled,
    end_values,
    not_started,
    requeue_values,
    rescued,
    usage_of,
    webhook_of,
)

LOOKAHEAD = 4  # a claim reads so many times as many jobs as it wants, for some may be over a limit

WEBHOOK = attrgetter("id", "key_id", "url", "body", "next_at", "created_at", "trace")

Finish = tuple[Lease, JobOutcome]


class Leases(DatabaseStore):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._finishes = Coalescer(self._finish_all, "store-finishes")

    @retried
    async def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        if limit <= 0:
            return []
        return await self.database.together(partial(claim, owner, limit, lease_s))

    @retried
    async def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        ids, tokens = [lease.id for lease in leases], [lease.token for lease in leases]
        rows = await self.database.rows("heartbeat", ids, tokens, lease_s)
        held = {Lease(row["id"], row["token"]): bool(row["cancel_asked"]) for row in rows}
        return [Heartbeat(lease, lease in held, held.get(lease, False)) for lease in leases]

    @retried
    async def backlog(self, cap: int = 1000) -> Backlog:
        now = float(await self.database.value("now"))
        found, is_all = await first(self.database, now, cap, lookahead=cap)
        if is_all:
            return Backlog(len(found), max((now - row["created_at"] for row in found), default=0.0))
        row = await self.database.row("backlog_by_key", now, cap)
        assert row
        return Backlog(row["queued"], row["oldest_s"])

    @retried
    async def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        return await self._finishes((lease, outcome))

    @retried
    async def retry_or_finish(
        self, lease: Lease, outcome: JobOutcome, delay_s: float = 0.0
    ) -> JobState | None:
        async def work(transaction: Transaction) -> JobState | None:
            row = await held_row(transaction, lease)
            if row is None:
                return None
            transition = after_failure(row, outcome, delay_s)
            await self._write(transaction, [transition])
            return transition.state

        return await self.database.together(work)

    @retried
    async def requeue(self, lease: Lease, delay_s: float = 0.0) -> bool:
        async def work(transaction: Transaction) -> bool:
            row = await held_row(transaction, lease)
            if row is None:
                return False
            await self._write(transaction, [after_return(row, delay_s)])
            return True

        return await self.database.together(work)

    @retried
    async def cancel(self, key_id: str, request_id: str) -> Cancellation:
        async def work(transaction: Transaction) -> Cancellation:
            row = await transaction.row("locked", request_id, key_id)
            if row is None:
                return Cancellation.NOT_FOUND
            if JobState(row["state"]).is_terminal:
                return Cancellation.ALREADY_COMPLETED
            if row["state"] == JobState.QUEUED:
                await self._write(transaction, [End(row, cancelled())])
            elif not row["cancel_asked"]:
                line = logs.encode([logs.CANCEL_ASKED], row["now"])
                await transaction.rows("ask_to_cancel", request_id, line)
            return Cancellation.REQUESTED

        return await self.database.together(work)

    @retried
    async def rescue(self, limit: int = 100) -> Rescued:
        async def work(transaction: Transaction) -> Rescued:
            lost = [after_loss(row) for row in await transaction.rows("lost", limit)]
            rows = await transaction.rows("not_started", limit)
            await self._write(transaction, [*(End(row, not_started()) for row in rows), *lost])
            return rescued(lost, len(rows))

        return await self.database.together(work)

    @retried
    async def prune(self, limit: int = 500) -> list[str]:
        async def work(transaction: Transaction) -> list[str]:
            expired = await transaction.rows("forget", limit)
            await transaction.rows("forget_webhooks", WEBHOOK_TTL_S, limit)
            await transaction.rows("forget_keys", REVOKED_KEY_TTL_S)
            await transaction.rows("forget_slots")
            await transaction.rows("forget_rates")
            return [name for row in expired for name in json.loads(row["files"])]

        return await self.database.together(work)

    async def _finish_all(self, finishes: Sequence[Finish]) -> list[bool]:
        return await self.database.together(partial(self._finish_together, finishes))

    async def _finish_together(
        self, finishes: Sequence[Finish], transaction: Transaction
    ) -> list[bool]:
        """The first of several with the same lease ends its job."""
        rows = await held_rows(transaction, [lease for lease, _ in finishes])
        ends, answers = [], []
        for lease, outcome in finishes:
            row = rows.pop(lease, None)
            answers.append(row is not None)
            if row is not None:
                ends.append(End(row, outcome))
        await self._write(transaction, ends)
        return answers

    async def _write(self, transaction: Transaction, transitions: Sequence[Transition]) -> None:
        requeues = [each for each in transitions if isinstance(each, Requeue)]
        ends = [each for each in transitions if isinstance(each, End)]
        if requeues:
            rows = ((r.row["id"], *requeue_values(r, r.row["now"]).values()) for r in requeues)
            await transaction.rows("requeue", *columns(rows))
        if ends:
            await self._write_ends(transaction, ends)

    async def _write_ends(self, transaction: Transaction, ends: Sequence[End]) -> None:
        """The ends, their webhooks, and what the jobs have used."""
        now = float(ends[0].row["now"])
        rows = ((end.row["id"], *end_values(end, self.rules, now).values()) for end in ends)
        await transaction.rows("end", now, *columns(rows))
        webhooks = [webhook_of(end.row, end.outcome, now) for end in ends]
        if wanted := [webhook for webhook in webhooks if webhook]:
            await transaction.rows("insert_webhooks", *columns(map(WEBHOOK, wanted)))
        # Last, for a key's usage is one row for all workers, and locked from here on.
        usages = (usage_of(end.row, end.outcome, now) for end in ends)
        await transaction.rows("add_usage", *columns(map(astuple, usages)))


async def claim(owner: str, limit: int, lease_s: float, transaction: Transaction) -> list[Job]:
    """Choose under the lock, then take those that no other transaction has locked meanwhile."""
    now = await transaction.value("lock", CLAIMS)
    chosen = await choose(transaction, now, limit)
    if not chosen:
        return []
    ids = [row["id"] for row in chosen]
    lines = [logs.encode([logs.started(row["attempts"] + 1)], now) for row in chosen]
    rows = await transaction.rows("take", ids, lines, owner, now, lease_s)
    taken = {row["id"]: job_in(row, now) for row in rows}
    return [taken[id_] for id_ in ids if id_ in taken]


async def choose(transaction: Transaction, now: float, limit: int) -> Sequence[Record]:
    """The first `limit` jobs that may run, in order."""
    found, is_all = await first(transaction, now, limit, LOOKAHEAD * limit)
    return found if is_all else await transaction.rows("first_by_key", now, limit)


async def first(
    database: Database | Transaction, now: float, limit: int, lookahead: int
) -> tuple[list[Record], bool]:
    """Those of the first `lookahead` that may run, and whether that is all that is wanted."""
    rows = await database.rows("first", now, lookahead)
    found = within_limits(rows)[:limit]
    return found, len(found) == limit or len(rows) < lookahead


def within_limits(rows: Iterable[Record]) -> list[Record]:
    """Of each key no more than it has free slots, which its first row says."""
    free: dict[str, int | None] = {}
    found = []
    for row in rows:
        left = free.setdefault(row["key_id"], row["free"])
        if left is None or left > 0:
            found.append(row)
            free[row["key_id"]] = None if left is None else left - 1
    return found


async def held_rows(transaction: Transaction, leases: Sequence[Lease]) -> dict[Lease, Record]:
    """The jobs whose latest leases these are, locked."""
    ids, tokens = [lease.id for lease in leases], [lease.token for lease in leases]
    rows = await transaction.rows("held", ids, tokens)
    return {Lease(row["id"], row["token"]): row for row in rows}


async def held_row(transaction: Transaction, lease: Lease) -> Record | None:
    """The job whose latest lease this is, locked."""
    return (await held_rows(transaction, [lease])).get(lease)
