"""The tables of the SQLite store, over one connection, without any waiting.

The caller of a method that writes has begun a transaction.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployments.errors import IdempotencyConflict, QueueFull
from deployments.jobs import job_log as logs
from deployments.jobs.api_key import ApiKey, Usage, rate_limit
from deployments.jobs.job import (
    Backlog,
    Cancellation,
    Heartbeat,
    Job,
    JobOutcome,
    JobState,
    JobStatus,
    Lease,
    LogLine,
    Rescued,
    StoredResponse,
    Submission,
    Submitted,
)
from deployments.jobs.rows import (
    COLUMNS,
    job_in,
    key_in,
    response_in,
    stats_in,
    status_in,
    webhook_in,
)
from deployments.jobs.sql import statements
from deployments.jobs.store import MAX_COUNTED, MAX_KEYS, POSITION_CAP, Row, StoreStats
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
    fingerprint,
    not_started,
    requeue_values,
    rescued,
    usage_of,
    webhook_of,
)
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import DeliveryResult, PublicKey, Webhook, WebhookState

OPERATION_TTL_S = 60.0  # longer than a lost call is sent again
SELECTED = {"input": "(SELECT json FROM input WHERE input.seq = request.seq) AS input"}


class Tables:
    """Jobs, webhooks and keys; `Store` says what the methods mean."""

    def __init__(
        self, connection: sqlite3.Connection, rules: QueueSettings, clock: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._rules = rules
        self._clock = clock
        self._sql = statements("sqlite")

    # ---------------------------------------------------------------------- jobs

    def submit(self, submission: Submission) -> Submitted:
        known = self._row("request_by_id", id=submission.id) or self._repeated(submission)
        if known:
            return Submitted(known["id"], self._ahead(known), created=False)
        queued, ahead = self._run("depth", priority=submission.priority).fetchone()
        self._check_length(queued, submission.max_queue_length)
        self._insert(submission)
        return Submitted(submission.id, min(ahead, POSITION_CAP), created=True)

    def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        now = self._clock()
        claimable = self._rows("claimable", now=now, limit=limit)
        return [self._take(row, owner, now, lease_s) for row in claimable]

    def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        until = self._clock() + lease_s
        return [self._extend(lease, until) for lease in leases]

    def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        row = self._held(lease)
        return row is not None and bool(self._apply(End(row, outcome)))

    def retry_or_finish(
        self, lease: Lease, outcome: JobOutcome, delay_s: float = 0.0
    ) -> JobState | None:
        row = self._held(lease)
        return None if row is None else self._apply(after_failure(row, outcome, delay_s))

    def requeue(self, lease: Lease, delay_s: float = 0.0) -> bool:
        row = self._held(lease)
        return row is not None and bool(self._apply(after_return(row, delay_s)))

    def cancel(self, key_id: str, request_id: str) -> Cancellation:
        row = self._row("of_key", id=request_id, key_id=key_id)
        if row is None:
            return Cancellation.NOT_FOUND
        if JobState(row["state"]).is_terminal:
            return Cancellation.ALREADY_COMPLETED
        if row["state"] == JobState.QUEUED:
            self._apply(End(row, cancelled()))
        elif not row["cancel_asked"]:
            self._run("ask_to_cancel", seq=row["seq"], logs=self._log([logs.CANCEL_ASKED]))
        return Cancellation.REQUESTED

    def rescue(self, limit: int = 100) -> Rescued:
        now = self._clock()
        lost = [after_loss(row) for row in self._rows("lost", now=now, limit=limit)]
        expired = [
            End(row, not_started()) for row in self._rows("not_started", now=now, limit=limit)
        ]
        for transition in (*expired, *lost):
            self._apply(transition)
        return rescued(lost, len(expired))

    def prune(self, limit: int = 500) -> list[str]:
        now = self._clock()
        expired = self._rows("expired", now=now, limit=limit)
        for row in expired:
            self._run("forget", seq=row["seq"])
            self._run("forget_input", seq=row["seq"])
        self._run("forget_webhooks", until=now - WEBHOOK_TTL_S, limit=limit)
        self._run("forget_keys", until=now - REVOKED_KEY_TTL_S)
        self._run("forget_slots", now=now)
        self._run("forget_rates", now=now)
        return [name for row in expired for name in json.loads(row["files"])]

    def status(self, key_id: str, request_id: str) -> JobStatus | None:
        row = self._row("status", id=request_id, key_id=key_id)
        if row is None:
            return None
        return status_in(row, self._ahead(row) if row["state"] == JobState.QUEUED else None)

    def result(self, key_id: str, request_id: str) -> StoredResponse | None:
        row = self._row("result", id=request_id, key_id=key_id)
        return None if row is None else response_in(row)

    def position(self, request_id: str) -> int | None:
        row = self._row("position", id=request_id, cap=POSITION_CAP)
        return None if row is None else int(row["ahead"])

    def backlog(self, cap: int = 1000) -> Backlog:
        now = self._clock()
        claimable = self._rows("claimable", now=now, limit=cap)
        return Backlog(
            len(claimable), max((now - row["created_at"] for row in claimable), default=0.0)
        )

    def _repeated(self, submission: Submission) -> sqlite3.Row | None:
        key = submission.idempotency_key
        if key is None:
            return None
        row = self._row("request_by_idempotency_key", key_id=submission.key_id, idempotency_key=key)
        if row and row["fingerprint"] != fingerprint(submission.path, submission.input):
            raise IdempotencyConflict
        return row

    def _check_length(self, queued: int, max_queue_length: int | None) -> None:
        bound = self._rules.max_queued
        if max_queue_length is not None:
            bound = min(bound, max_queue_length)
        if queued >= bound:
            raise QueueFull

    def _insert(self, given: Submission) -> None:
        now, key = self._clock(), given.idempotency_key
        cursor = self._run(
            "insert_request",
            id=given.id,
            key_id=given.key_id,
            path=given.path,
            base_url=given.base_url,
            priority=given.priority,
            start_by=None if given.start_timeout_s is None else now + given.start_timeout_s,
            max_attempts=given.max_attempts,
            webhook_url=given.webhook_url,
            idempotency_key=key,
            fingerprint=None if key is None else fingerprint(given.path, given.input),
            keeps_input=given.keeps_input,
            files_ttl_s=given.files_ttl_s,
            trace=given.trace,
            now=now,
            logs=self._log([logs.RECEIVED]),
        )
        self._run("insert_input", seq=cursor.lastrowid, json=given.input)

    def _ahead(self, known: sqlite3.Row) -> int:
        position = self.position(known["id"])
        return 0 if position is None else position  # it may have been claimed just now

    def _take(self, claimable: sqlite3.Row, owner: str, now: float, lease_s: float) -> Job:
        row = self._run(
            "take",
            seq=claimable["seq"],
            owner=owner,
            lease_until=now + lease_s,
            logs=logs.encode([logs.started(claimable["attempts"] + 1)], now),
        ).fetchone()
        return job_in(row, now)

    def _extend(self, lease: Lease, until: float) -> Heartbeat:
        row = self._row("extend", id=lease.id, token=lease.token, lease_until=until)
        if row is None:
            return Heartbeat(lease, held=False, cancelled=False)
        return Heartbeat(lease, held=True, cancelled=bool(row["cancel_asked"]))

    def _held(self, lease: Lease) -> sqlite3.Row | None:
        return self._row("held", id=lease.id, token=lease.token)

    def _apply(self, transition: Transition) -> JobState:
        now, row = self._clock(), transition.row
        if isinstance(transition, Requeue):
            self._run("requeue", seq=row["seq"], **requeue_values(transition, now))
            return transition.state
        outcome = transition.outcome
        self._run("end", seq=row["seq"], now=now, **end_values(transition, self._rules, now))
        if not row["keeps_input"]:
            self._run("forget_input", seq=row["seq"])
        self.add_usage([usage_of(row, outcome, now)])
        if webhook := webhook_of(row, outcome, now):
            self._run("insert_webhook", **asdict(webhook))
        return transition.state

    def _log(self, lines: Iterable[LogLine]) -> str:
        return logs.encode(lines, self._clock())

    # ------------------------------------------------------------------ webhooks

    def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        now = self._clock()
        return [
            self._claim_webhook(row["seq"], now + lease_s)
            for row in self._rows("due_webhooks", now=now, limit=limit)
        ]

    def record_delivery(self, webhook_id: str, token: int, result: DeliveryResult) -> bool:
        return self._changes(
            "record_delivery",
            id=webhook_id,
            token=token,
            state=result.state,
            status=result.status,
            error=result.error,
            next_at=None if result.retry_s is None else self._clock() + result.retry_s,
        )

    def webhooks(self, state: WebhookState | None = None, limit: int = 100) -> list[Webhook]:
        return [webhook_in(row) for row in self._rows("webhooks", state=state, limit=limit)]

    def retry_webhook(self, webhook_id: str) -> bool:
        return self._changes("retry_webhook", id=webhook_id, now=self._clock())

    def signing_keys(self) -> list[PublicKey]:
        return [PublicKey(**row) for row in self._rows("signing_keys")]

    def put_signing_keys(self, keys: Sequence[PublicKey]) -> None:
        now = self._clock()
        for key in keys:
            self._run("put_signing_key", kid=key.kid, x=key.x, state=key.state, now=now)

    def _claim_webhook(self, seq: int, lease_until: float) -> Webhook:
        row = self._row("claim_webhook", seq=seq, lease_until=lease_until)
        assert row
        return webhook_in(row)

    # ---------------------------------------------------------------------- keys

    def add_key(self, key: ApiKey) -> None:
        try:
            self._run("add_key", **asdict(key) | {"created_at": self._clock()})
        except sqlite3.IntegrityError:
            raise ValueError(f"there is a key {key.id}, or one with its hash, already") from None

    def key_by_hash(self, key_hash: str) -> ApiKey | None:
        row = self._row("key_by_hash", hash=key_hash)
        key = None if row is None else key_in(row)
        return key if key and key.is_valid(self._clock()) else None

    def keys(self) -> list[ApiKey]:
        return [key_in(row) for row in self._rows("keys")]

    def revoke_key(self, key_id: str) -> bool:
        return self._changes("revoke_key", id=key_id, now=self._clock())

    def replace_key_hash(self, key_id: str, key_hash: str) -> bool:
        try:
            return self._changes("replace_key_hash", id=key_id, hash=key_hash)
        except sqlite3.IntegrityError:
            raise ValueError("there is a key with this hash already") from None

    def check_rate_limit(
        self, key_id: str, rate: float, burst: int, *, operation: str = ""
    ) -> float:
        """An `operation` that was counted already is not counted again."""
        if self._is_repeated(operation):
            return 0.0
        row = self._row("rate_due", key_id=key_id)
        wait_s, due = rate_limit(row["due"] if row else 0.0, self._clock(), rate, burst)
        if wait_s == 0.0:
            self._run("put_rate_due", key_id=key_id, due=due)
            self._remember(operation)
        return wait_s

    def acquire_slot(self, key_id: str, run_id: str, ttl_s: float) -> bool:
        now = self._clock()
        self.release_slot(run_id)  # a run that asks again keeps one slot
        (is_free,) = self._run("is_slot_free", key_id=key_id, now=now).fetchone()
        if is_free:
            self._run("acquire_slot", run_id=run_id, key_id=key_id, until=now + ttl_s)
        return bool(is_free)

    def release_slot(self, run_id: str) -> None:
        self._run("release_slot", run_id=run_id)

    def add_usage(self, usages: Sequence[Usage], *, operation: str = "") -> None:
        """An `operation` that was counted already is not counted again."""
        if self._is_repeated(operation):
            return
        self._remember(operation)
        for used in usages:
            self._run("add_usage", **vars(used))

    def usage(self, since_day: str = "", key_id: str | None = None) -> list[Usage]:
        return [Usage(**row) for row in self._rows("usage", since_day=since_day, key_id=key_id)]

    def _is_repeated(self, operation: str) -> bool:
        return bool(operation) and self._row("rate_due", key_id=operation) is not None

    def _remember(self, operation: str) -> None:
        """Counted in this transaction. Kept among the rates, which are forgotten when due."""
        if operation:
            self._run("put_rate_due", key_id=operation, due=self._clock() + OPERATION_TTL_S)

    # ------------------------------------------------------------- all the rest

    def now(self) -> float:
        return self._clock()

    def stats(self, cap: int = MAX_COUNTED, max_keys: int = MAX_KEYS) -> StoreStats:
        now = self._clock()
        counted = self._row("stats", now=now, cap=cap)
        assert counted
        busiest = self._rows("busiest_keys", now=now, limit=max_keys)
        return stats_in(counted, busiest, free_bytes_at(Path(counted["file"]).parent))

    def secret(self, name: str) -> bytes | None:
        row = self._row("secret", name=name)
        return None if row is None else bytes.fromhex(row["value"])

    def add_secret(self, name: str, fresh: bytes) -> bytes:
        """The secret called `name`, now `fresh` if there was none."""
        self._run("add_secret", name=name, value=fresh.hex())
        secret = self.secret(name)
        assert secret is not None
        return secret

    def read_rows(self, table: str, after: int, limit: int) -> list[tuple[int, Row]]:
        """Up to `limit` rows of a table after the row with the id `after`, with their ids."""
        columns = ", ".join(SELECTED.get(name, name) for name in COLUMNS[table])
        found = self._connection.execute(
            f"SELECT rowid AS place, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (after, limit),
        )
        rows = [dict(row) for row in found]
        return [(row.pop("place"), row) for row in rows]

    def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        columns = [name for name in COLUMNS[table] if name != "input"]
        places = ", ".join(f":{name}" for name in columns)
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
        for row in rows:
            try:
                seq = self._connection.execute(insert, row).lastrowid
            except sqlite3.IntegrityError as error:
                raise ValueError(f"{table}: a row is there already ({error})") from None
            if row.get("input") is not None:
                self._run("insert_input", seq=seq, json=row["input"])

    # ----------------------------------------------------------------- statements

    def _run(self, statement: str, /, **values: Any) -> sqlite3.Cursor:
        return self._connection.execute(self._sql[statement], values)

    def _rows(self, statement: str, /, **values: Any) -> list[sqlite3.Row]:
        return self._run(statement, **values).fetchall()

    def _row(self, statement: str, /, **values: Any) -> sqlite3.Row | None:
        return next(iter(self._rows(statement, **values)), None)

    def _changes(self, statement: str, /, **values: Any) -> bool:
        return self._run(statement, **values).rowcount > 0


def free_bytes_at(folder: Path) -> int | None:
    """Free bytes on the disk of `folder`; None when it is gone, as a temporary one may be."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
