"""How requests leave a worker: ended for good, or queued again.

Rows are locked first, then it is decided what becomes of each, then all is written together.
"""

import json
from collections.abc import Sequence
from functools import partial

from asyncpg import Record

from deployments.jobs import endings, logs
from deployments.jobs.job import Cancellation, JobOutcome, JobState, Lease, Rescued
from deployments.jobs.postgres.database import Database, Transaction
from deployments.jobs.postgres.group_commit import Gatherer
from deployments.jobs.postgres.outcomes import Again, End, write
from deployments.jobs.postgres.part import Part
from deployments.settings import QueueSettings

Finish = tuple[Lease, JobOutcome]


class Closing(Part):
    """Ends of requests, and of attempts."""

    def __init__(self, database: Database, rules: QueueSettings) -> None:
        super().__init__(database, rules)
        self._finishes = Gatherer(self._finish_all, "store-finishes")

    async def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        """End a request."""
        return await self._finishes.ask((lease, outcome))

    async def retry_or_finish(
        self, lease: Lease, outcome: JobOutcome, delay_s: float = 0.0
    ) -> JobState | None:
        """End an attempt."""

        async def work(transaction: Transaction) -> JobState | None:
            row = await held_row(transaction, lease)
            if row is None:
                return None
            change = after_failure(row, outcome, delay_s)
            await write(transaction, self._rules, [change])
            return state_of(change)

        return await self._database.together(work)

    async def requeue(self, lease: Lease, delay_s: float = 0.0) -> bool:
        """Hand a request back."""

        async def work(transaction: Transaction) -> bool:
            row = await held_row(transaction, lease)
            if row is None:
                return False
            await write(transaction, self._rules, [after_release(row, delay_s)])
            return True

        return await self._database.together(work)

    async def cancel(self, key_id: str, request_id: str) -> Cancellation:
        """Cancel a request."""

        async def work(transaction: Transaction) -> Cancellation:
            row = await transaction.row("locked", request_id, key_id)
            if row is None:
                return Cancellation.NOT_FOUND
            if JobState(row["state"]).is_terminal:
                return Cancellation.ALREADY_COMPLETED
            if row["state"] == JobState.QUEUED:
                await write(transaction, self._rules, [End(row, endings.cancelled())])
            elif not row["cancel_asked"]:
                line = logs.encode([logs.CANCEL_ASKED], row["now"])
                await transaction.rows("ask_to_cancel", request_id, line)
            return Cancellation.REQUESTED

        return await self._database.together(work)

    async def rescue(self, limit: int = 100) -> Rescued:
        """Care for requests that nobody cares for."""

        async def work(transaction: Transaction) -> Rescued:
            lost = [after_loss(row) for row in await transaction.rows("lost", limit)]
            rows = await transaction.rows("late", limit)
            late = [End(row, endings.not_started()) for row in rows]
            await write(transaction, self._rules, [*late, *lost])
            states = [state_of(outcome) for outcome in lost]
            return Rescued(
                requeued=states.count(JobState.QUEUED),
                failed=states.count(JobState.ERROR),
                cancelled=states.count(JobState.CANCELLED),
                expired=len(late),
            )

        return await self._database.together(work)

    async def prune(self, limit: int = 500) -> list[str]:
        """Forget what is over."""

        async def work(transaction: Transaction) -> list[str]:
            over = await transaction.rows("forget", limit)
            await transaction.rows("forget_webhooks", endings.WEBHOOK_TTL_S, limit)
            await transaction.rows("forget_keys", endings.REVOKED_TTL_S)
            await transaction.rows("forget_slots")
            await transaction.rows("forget_paces")
            return [name for row in over for name in json.loads(row["files"])]

        return await self._database.together(work)

    async def _finish_all(self, finishes: Sequence[Finish]) -> list[bool]:
        return await self._database.together(partial(self._finish_together, finishes))

    async def _finish_together(
        self, finishes: Sequence[Finish], transaction: Transaction
    ) -> list[bool]:
        """The first of several with the same lease ends its request."""
        rows = await held_rows(transaction, [lease for lease, _ in finishes])
        ends, answers = [], []
        for lease, outcome in finishes:
            row = rows.pop(lease, None)
            answers.append(row is not None)
            if row is not None:
                ends.append(End(row, outcome))
        await write(transaction, self._rules, ends)
        return answers


def after_failure(row: Record, outcome: JobOutcome, delay_s: float) -> End | Again:
    """What becomes of a request whose attempt has failed."""
    if row["cancel_asked"]:
        return End(row, endings.cancelled())
    if row["attempts"] >= row["max_attempts"]:
        return End(row, outcome)
    return Again(row, logs.queued_again(outcome), row["attempts"], row["token"], delay_s)


def after_release(row: Record, delay_s: float) -> End | Again:
    """What becomes of a request that was not worked on."""
    if row["cancel_asked"]:
        return End(row, endings.cancelled())
    return Again(row, [logs.QUEUED_AGAIN], row["attempts"] - 1, row["token"], delay_s)


def after_loss(row: Record) -> End | Again:
    """What becomes of a request whose worker is gone; should that come back, it has no lease."""
    if row["cancel_asked"]:
        return End(row, endings.cancelled())
    if row["attempts"] >= row["max_attempts"]:
        return End(row, endings.lost())
    return Again(row, [logs.QUEUED_AGAIN], row["attempts"], row["token"] + 1)


def state_of(outcome: End | Again) -> JobState:
    """The state in which it leaves the request."""
    return outcome.outcome.state if isinstance(outcome, End) else JobState.QUEUED


async def held_rows(transaction: Transaction, leases: Sequence[Lease]) -> dict[Lease, Record]:
    """The requests whose latest leases these are, locked."""
    ids, tokens = [lease.id for lease in leases], [lease.token for lease in leases]
    rows = await transaction.rows("held", ids, tokens)
    return {Lease(row["id"], row["token"]): row for row in rows}


async def held_row(transaction: Transaction, lease: Lease) -> Record | None:
    """The request whose latest lease this is, locked."""
    return (await held_rows(transaction, [lease])).get(lease)
