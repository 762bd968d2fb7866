"""Writes what becomes of locked requests: many together, with all that belongs to their ends."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from asyncpg import Record

from deployments.jobs import endings, logs
from deployments.jobs.api_key import Usage
from deployments.jobs.job import JobOutcome, LogLine, compact
from deployments.jobs.postgres.database import Transaction
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import Webhook


@dataclass(frozen=True)
class End:
    """A locked request and how it ends."""

    row: Record
    outcome: JobOutcome


@dataclass(frozen=True)
class Again:
    """A locked request that goes back into the queue, with its new attempts and token."""

    row: Record
    lines: Sequence[LogLine]
    attempts: int
    token: int
    delay_s: float = 0.0


async def write(
    transaction: Transaction, rules: QueueSettings, outcomes: Sequence[End | Again]
) -> None:
    """Write them all."""
    again = [outcome for outcome in outcomes if isinstance(outcome, Again)]
    ends = [outcome for outcome in outcomes if isinstance(outcome, End)]
    if again:
        await transaction.rows("queue_again", *columns(map(queued_columns, again)))
    if ends:
        await write_ends(transaction, rules, ends)


async def write_ends(transaction: Transaction, rules: QueueSettings, ends: Sequence[End]) -> None:
    """The ends, the webhooks that tell of them, and what the requests have used."""
    now = float(ends[0].row["now"])
    rows = columns(ended_columns(end, rules, now) for end in ends)
    await transaction.rows("end", now, *rows)
    if hooks := [webhook_of(end, now) for end in ends if end.row["webhook_url"]]:
        await transaction.rows("announce", *columns(map(webhook_columns, hooks)))
    # Last, for a key's usage is one row for all workers, and locked from here on.
    await transaction.rows("add_usage", *columns(astuple(usage_of(end, now)) for end in ends))


def queued_columns(again: Again) -> tuple[Any, ...]:
    """The parameters of `queue_again` for one request."""
    now = again.row["now"]
    lines = logs.encode(again.lines, now)
    return again.row["id"], now + again.delay_s, again.attempts, again.token, lines


def ended_columns(end: End, rules: QueueSettings, now: float) -> tuple[Any, ...]:
    """The parameters of `end` for one request."""
    outcome = end.outcome
    return (
        end.row["id"],
        outcome.state,
        endings.expires_at(outcome, bool(end.row["keeps_input"]), rules, now),
        outcome.status,
        outcome.body,
        compact(dict(outcome.headers)),
        outcome.error,
        outcome.error_type,
        outcome.inference_s,
        compact(outcome.files),
        logs.encode(logs.ended(outcome), now),
    )


def webhook_columns(hook: Webhook) -> tuple[Any, ...]:
    """The parameters of `announce` for one webhook."""
    return hook.id, hook.key_id, hook.url, hook.body, hook.next_at, hook.created_at, hook.trace


def webhook_of(end: End, now: float) -> Webhook:
    """The delivery that tells of the end."""
    row = end.row
    id_, key_id, url, trace = (row[name] for name in ("id", "key_id", "webhook_url", "trace"))
    return endings.webhook_of(id_, key_id, url, trace, end.outcome, now)


def usage_of(end: End, now: float) -> Usage:
    """What the request has used."""
    return endings.usage_of(end.row["key_id"], end.row["path"], end.outcome, now)


def columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """A list for each column, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]
