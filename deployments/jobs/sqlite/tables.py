"""What the SQLite store does, on one connection, without waiting for anybody.

Whoever calls a method that writes sees to it that a transaction is under way.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployments.errors import IdempotencyConflict, QueueFull
from deployments.jobs import endings, logs
from deployments.jobs.api_key import ApiKey, Usage
from deployments.jobs.columns import COLUMNS
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
    compact,
)
from deployments.jobs.rate_limit import pace
from deployments.jobs.statements import statements
from deployments.jobs.store import POSITION_CAP, Row, StoreStats
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import DeliveryResult, PublicKey, Webhook, WebhookState

SELECTED = {"input": "(SELECT json FROM input WHERE input.seq = request.seq) AS input"}


class Tables:
    """Requests, webhooks and keys in the tables of one connection."""

    def __init__(
        self, connection: sqlite3.Connection, rules: QueueSettings, clock: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._rules = rules
        self._clock = clock
        self._sql = statements("sqlite")

    # ------------------------------------------------------------------ requests

    def submit(self, submission: Submission) -> Submitted:
        """Queue a request, if it is not there."""
        known = self._row("request_by_id", id=submission.id) or self._repeated(submission)
        if known:
            return Submitted(known["id"], self._ahead(known), created=False)
        queued, ahead = self._run("depth", priority=submission.priority).fetchone()
        self._check_room(queued, submission.max_queue_length)
        self._insert(submission)
        return Submitted(submission.id, min(ahead, POSITION_CAP), created=True)

    def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        """Take requests that wait."""
        now = self._clock()
        claimable = self._rows("claimable", now=now, limit=limit)
        return [self._take(row, owner, now, lease_s) for row in claimable]

    def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        """Extend leases."""
        until = self._clock() + lease_s
        return [self._extend(lease, until) for lease in leases]

    def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        """End a request."""
        row = self._held(lease)
        if row is None:
            return False
        self._end(row, outcome)
        return True

    def retry_or_finish(
        self, lease: Lease, outcome: JobOutcome, delay_s: float = 0.0
    ) -> JobState | None:
        """End an attempt."""
        row = self._held(lease)
        if row is None:
            return None
        if row["cancel_asked"]:
            return self._end(row, endings.cancelled())
        if row["attempts"] >= row["max_attempts"]:
            return self._end(row, outcome)
        return self._requeue(row, logs.queued_again(outcome), delay_s)

    def requeue(self, lease: Lease, delay_s: float = 0.0) -> bool:
        """Hand a request back."""
        row = self._held(lease)
        if row is None:
            return False
        if row["cancel_asked"]:
            self._end(row, endings.cancelled())
        else:
            self._requeue(row, [logs.QUEUED_AGAIN], delay_s, uncounted=1)
        return True

    def cancel(self, key_id: str, request_id: str) -> Cancellation:
        """Cancel a request."""
        row = self._row("of_key", id=request_id, key_id=key_id)
        if row is None:
            return Cancellation.NOT_FOUND
        if JobState(row["state"]).is_terminal:
            return Cancellation.ALREADY_COMPLETED
        if row["state"] == JobState.QUEUED:
            self._end(row, endings.cancelled())
        elif not row["cancel_asked"]:
            self._run("ask_to_cancel", seq=row["seq"], logs=self._log([logs.CANCEL_ASKED]))
        return Cancellation.REQUESTED

    def rescue(self, limit: int) -> Rescued:
        """Care for requests that nobody cares for."""
        now = self._clock()
        lost = self._rows("lost", now=now, limit=limit)
        late = self._rows("late", now=now, limit=limit)
        for row in late:
            self._end(row, endings.not_started())
        states = [self._rescue(row) for row in lost]
        return Rescued(
            requeued=states.count(JobState.QUEUED),
            failed=states.count(JobState.ERROR),
            cancelled=states.count(JobState.CANCELLED),
            expired=len(late),
        )

    def prune(self, limit: int) -> list[str]:
        """Forget what is over."""
        now = self._clock()
        over = self._rows("over", now=now, limit=limit)
        for row in over:
            self._run("forget", seq=row["seq"])
            self._run("forget_input", seq=row["seq"])
        self._run("forget_webhooks", until=now - endings.WEBHOOK_TTL_S, limit=limit)
        self._run("forget_keys", until=now - endings.REVOKED_TTL_S)
        self._run("forget_slots", now=now)
        self._run("forget_paces", now=now)
        return [name for row in over for name in json.loads(row["files"])]

    def status(self, key_id: str, request_id: str) -> JobStatus | None:
        """How a request stands."""
        row = self._row("status", id=request_id, key_id=key_id)
        if row is None:
            return None
        return JobStatus(
            id=row["id"],
            path=row["path"],
            state=JobState(row["state"]),
            position=self._ahead(row) if row["state"] == JobState.QUEUED else None,
            logs=logs.decode(row["logs"]),
            error=row["error"],
            error_type=row["error_type"],
            inference_s=row["inference_s"],
        )

    def result(self, key_id: str, request_id: str) -> StoredResponse | None:
        """The response of a request."""
        row = self._row("result", id=request_id, key_id=key_id)
        if row is None:
            return None
        headers = json.loads(row["headers"])
        return StoredResponse(JobState(row["state"]), row["status"], row["body"], headers)

    def position(self, request_id: str) -> int | None:
        """How many are ahead."""
        row = self._row("position", id=request_id, cap=POSITION_CAP)
        return None if row is None else int(row["ahead"])

    def backlog(self, cap: int) -> Backlog:
        """What a claim of `cap` would take."""
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
        if row and row["fingerprint"] != endings.fingerprint(submission.path, submission.input):
            raise IdempotencyConflict
        return row

    def _check_room(self, queued: int, max_queue_length: int | None) -> None:
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
            fingerprint=None if key is None else endings.fingerprint(given.path, given.input),
            keeps_input=given.keeps_input,
            files_ttl_s=given.files_ttl_s,
            trace=given.trace,
            now=now,
            logs=self._log([logs.RECEIVED]),
        )
        self._run("insert_input", seq=cursor.lastrowid, json=given.input)

    def _ahead(self, known: sqlite3.Row) -> int:
        position = self.position(known["id"])
        return 0 if position is None else position  # a reader may find that it was just taken

    def _take(self, claimable: sqlite3.Row, owner: str, now: float, lease_s: float) -> Job:
        row = self._run(
            "take",
            seq=claimable["seq"],
            owner=owner,
            lease_until=now + lease_s,
            logs=logs.encode([logs.started(claimable["attempts"] + 1)], now),
        ).fetchone()
        return Job(
            lease=Lease(row["id"], row["token"]),
            attempt=row["attempts"],
            key_id=row["key_id"],
            path=row["path"],
            input=row["input"],
            base_url=row["base_url"],
            priority=row["priority"],
            files_ttl_s=row["files_ttl_s"],
            waited_s=now - row["created_at"],
            trace=row["trace"],
        )

    def _extend(self, lease: Lease, until: float) -> Heartbeat:
        row = self._row("extend", id=lease.id, token=lease.token, lease_until=until)
        if row is None:
            return Heartbeat(lease, held=False, cancelled=False)
        return Heartbeat(lease, held=True, cancelled=bool(row["cancel_asked"]))

    def _held(self, lease: Lease) -> sqlite3.Row | None:
        return self._row("held", id=lease.id, token=lease.token)

    def _rescue(self, row: sqlite3.Row) -> JobState:
        if row["cancel_asked"]:
            return self._end(row, endings.cancelled())
        if row["attempts"] >= row["max_attempts"]:
            return self._end(row, endings.lost())
        return self._requeue(row, [logs.QUEUED_AGAIN], revoked=1)

    def _requeue(
        self,
        row: sqlite3.Row,
        lines: Iterable[LogLine],
        delay_s: float = 0.0,
        *,
        uncounted: int = 0,
        revoked: int = 0,
    ) -> JobState:
        self._run(
            "requeue",
            seq=row["seq"],
            not_before=self._clock() + delay_s,
            uncounted=uncounted,
            revoked=revoked,
            logs=self._log(lines),
        )
        return JobState.QUEUED

    def _end(self, row: sqlite3.Row, outcome: JobOutcome) -> JobState:
        now, keeps_input = self._clock(), bool(row["keeps_input"])
        self._run(
            "end",
            seq=row["seq"],
            state=outcome.state,
            now=now,
            expires_at=endings.expires_at(outcome, keeps_input, self._rules, now),
            status=outcome.status,
            body=outcome.body,
            headers=compact(dict(outcome.headers)),
            error=outcome.error,
            error_type=outcome.error_type,
            inference_s=outcome.inference_s,
            files=compact(outcome.files),
            logs=logs.encode(logs.ended(outcome), now),
        )
        if not keeps_input:
            self._run("forget_input", seq=row["seq"])
        self.add_usage([endings.usage_of(row["key_id"], row["path"], outcome, now)])
        if row["webhook_url"]:
            url, trace = row["webhook_url"], row["trace"]
            hook = endings.webhook_of(row["id"], row["key_id"], url, trace, outcome, now)
            self._run("insert_webhook", **asdict(hook))
        return outcome.state

    def _log(self, lines: Iterable[LogLine]) -> str:
        return logs.encode(lines, self._clock())

    # ------------------------------------------------------------------ webhooks

    def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        """Take deliveries that are due, the one that waits longest first."""
        now = self._clock()
        return [
            self._claim_webhook(row["seq"], now + lease_s)
            for row in self._rows("due_webhooks", now=now, limit=limit)
        ]

    def record_delivery(self, webhook_id: str, token: int, result: DeliveryResult) -> bool:
        """Note what came of a delivery."""
        return self._changes(
            "record_delivery",
            id=webhook_id,
            token=token,
            state=result.state,
            status=result.status,
            error=result.error,
            next_at=None if result.retry_s is None else self._clock() + result.retry_s,
        )

    def webhooks(self, state: WebhookState | None, limit: int) -> list[Webhook]:
        """The latest webhooks."""
        return [webhook_in(row) for row in self._rows("webhooks", state=state, limit=limit)]

    def retry_webhook(self, webhook_id: str) -> bool:
        """Make a webhook due again."""
        return self._changes("retry_webhook", id=webhook_id, now=self._clock())

    def signing_keys(self) -> list[PublicKey]:
        """The public halves of all webhook keys."""
        return [PublicKey(**row) for row in self._rows("signing_keys")]

    def put_signing_keys(self, keys: Sequence[PublicKey]) -> None:
        """Add or change keys."""
        now = self._clock()
        for key in keys:
            self._run("put_signing_key", kid=key.kid, x=key.x, state=key.state, now=now)

    def _claim_webhook(self, seq: int, lease_until: float) -> Webhook:
        row = self._row("claim_webhook", seq=seq, lease_until=lease_until)
        assert row
        return webhook_in(row)

    # ---------------------------------------------------------------------- keys

    def add_key(self, key: ApiKey) -> None:
        """Keep a new key."""
        try:
            self._run("add_key", **asdict(key) | {"created_at": self._clock()})
        except sqlite3.IntegrityError:
            raise ValueError(f"there is a key {key.id}, or one with its hash, already") from None

    def key_by_hash(self, key_hash: str) -> ApiKey | None:
        """The key with this hash."""
        row = self._row("key_by_hash", hash=key_hash)
        key = row and ApiKey(**row)
        return key if key and key.is_valid(self._clock()) else None

    def keys(self) -> list[ApiKey]:
        """All keys."""
        return [ApiKey(**row) for row in self._rows("keys")]

    def revoke_key(self, key_id: str) -> bool:
        """Let the key open nothing any more."""
        return self._changes("revoke_key", id=key_id, now=self._clock())

    def replace_key_hash(self, key_id: str, key_hash: str) -> bool:
        """Give the key another secret."""
        try:
            return self._changes("replace_key_hash", id=key_id, hash=key_hash)
        except sqlite3.IntegrityError:
            raise ValueError("there is a key with this hash already") from None

    def check_rate_limit(self, key_id: str, rate: float, burst: int) -> float:
        """Count one request against a rate."""
        row = self._row("due", key_id=key_id)
        wait, due = pace(row["due"] if row else 0.0, self._clock(), rate, burst)
        self._run("put_due", key_id=key_id, due=due)
        return wait

    def acquire_slot(self, key_id: str, run_id: str, ttl_s: float) -> bool:
        """Take a place."""
        now = self._clock()
        self.release_slot(run_id)  # a run that asks again keeps one place
        (has_room,) = self._run("has_room", key_id=key_id, now=now).fetchone()
        if has_room:
            self._run("acquire_slot", run_id=run_id, key_id=key_id, until=now + ttl_s)
        return bool(has_room)

    def release_slot(self, run_id: str) -> None:
        """Give the place back."""
        self._run("release_slot", run_id=run_id)

    def add_usage(self, usages: Sequence[Usage]) -> None:
        """Add to what keys have used."""
        for used in usages:
            self._run("add_usage", **vars(used))

    def usage(self, since_day: str, key_id: str | None) -> list[Usage]:
        """What was used."""
        return [Usage(**row) for row in self._rows("usage", since_day=since_day, key_id=key_id)]

    # ------------------------------------------------------------- all the rest

    def now(self) -> float:
        """The clock."""
        return self._clock()

    def stats(self, cap: int, max_keys: int) -> StoreStats:
        """What there is, in numbers, and the room on its disk."""
        now = self._clock()
        counted = self._row("stats", now=now, cap=cap)
        assert counted
        busy = self._rows("busy_keys", now=now, limit=max_keys)
        return StoreStats(
            queued=counted["queued"],
            running=counted["running"],
            keys={row["key_id"]: row["running"] for row in busy},
            webhooks={state: counted[state] for state in WebhookState},
            overdue_s=counted["overdue_s"],
            size_bytes=counted["size_bytes"],
            free_bytes=shutil.disk_usage(Path(counted["file"]).parent).free,
        )

    def secret(self, name: str) -> bytes | None:
        """The secret called `name`, if there is one."""
        row = self._row("secret", name=name)
        return None if row is None else bytes.fromhex(row["value"])

    def add_secret(self, name: str, fresh: bytes) -> bytes:
        """The secret called `name`, now `fresh` if there was none."""
        self._run("add_secret", name=name, value=fresh.hex())
        secret = self.secret(name)
        assert secret is not None
        return secret

    def read_rows(self, table: str, after: int, limit: int) -> list[tuple[int, Row]]:
        """Up to `limit` rows of a table with their places, from behind the place `after` on."""
        columns = ", ".join(SELECTED.get(name, name) for name in COLUMNS[table])
        found = self._connection.execute(
            f"SELECT rowid AS place, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (after, limit),
        )
        rows = [dict(row) for row in found]
        return [(row.pop("place"), row) for row in rows]

    def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows."""
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


def webhook_in(row: sqlite3.Row) -> Webhook:
    """The webhook in `row`."""
    return Webhook(**dict(row) | {"state": WebhookState(row["state"])})
