"""The store in memory: a model of the protocol, which tests compare with the stores.

It is also a fast stand-in for them.
No method awaits anything, so each is one transaction of its event loop.
"""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count, islice
from typing import Any

from deployments.errors import IdempotencyConflict, QueueFull, RunnerDisconnected
from deployments.florence import identity
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
    compact,
)
from deployments.jobs.rows import COLUMNS
from deployments.jobs.store import MAX_COUNTED, MAX_KEYS, POSITION_CAP, Row, StoreStats
from deployments.jobs.transitions import (
    REVOKED_KEY_TTL_S,
    WEBHOOK_TTL_S,
    cancelled,
    expires_at,
    fingerprint,
    not_started,
    usage_of,
    webhook_of,
)
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import DeliveryResult, PublicKey, Webhook, WebhookState

SIGNING_ORDER = ("active", "next", "retired")


@dataclass(kw_only=True)
class Record:
    """A job as it stands; `seq` is its place in the order of arrival."""

    seq: int
    id: str
    key_id: str
    path: str
    input: str | None
    created_at: float
    base_url: str = ""
    priority: int = 0
    start_by: float | None = None
    max_attempts: int = 3
    webhook_url: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    keeps_input: bool = True
    files_ttl_s: float | None = None
    state: JobState = JobState.QUEUED
    attempts: int = 0
    token: int = 0
    owner: str | None = None
    lease_until: float | None = None
    not_before: float = 0.0
    cancel_asked: bool = False
    ended_at: float | None = None
    expires_at: float | None = None
    status: int = 0
    body: str = ""
    headers: str = "{}"
    error: str | None = None
    error_type: str | None = None
    inference_s: float | None = None
    num_tokens: int | None = None
    truncated: int = 0
    files: str = "[]"
    logs: str = ""
    trace: str = ""

    def __getitem__(self, column: str) -> Any:
        return getattr(self, column)

    @property
    def place(self) -> tuple[int, int]:
        """The queue's sort key."""
        return self.priority, self.seq

    def is_past_start(self, now: float) -> bool:
        """Whether the start timeout passed without an attempt."""
        return self.start_by is not None and self.start_by <= now and not self.attempts

    def is_claimable(self, now: float) -> bool:
        """Whether a worker may claim it, without regard to its key's limit."""
        return (
            self.state is JobState.QUEUED and self.not_before <= now and not self.is_past_start(now)
        )

    def has_expired_lease(self, now: float) -> bool:
        """Whether its lease has expired."""
        return self.lease_until is not None and self.lease_until <= now


class MemoryStore:
    """Jobs, webhooks and keys of one process and one event loop."""

    def __init__(self, rules: QueueSettings, clock: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._clock = clock
        self._seq = count()
        self._requests: dict[str, Record] = {}
        self._webhooks: dict[str, Webhook] = {}
        self._keys: dict[str, ApiKey] = {}
        self._usage: dict[tuple[str, str, str], Usage] = {}
        self._signing_keys: dict[str, PublicKey] = {}
        self._secrets: dict[str, bytes] = {}
        self._slots: dict[str, tuple[str, float]] = {}  # run: (key, until)
        self._due: dict[str, float] = {}  # of keys with a rate

    # ------------------------------------------------------------------ requests

    async def submit(self, submission: Submission) -> Submitted:
        """Queue a job."""
        known = self._requests.get(submission.id) or self._repeated(submission)
        if known:
            return Submitted(known.id, self._ahead(known), created=False)
        self._check_room(submission.max_queue_length)
        record = self._record(submission)
        self._requests[record.id] = record
        self._log(record, [logs.RECEIVED])
        return Submitted(record.id, self._ahead(record), created=True)

    async def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        """Claim queued jobs."""
        return [self._take(record, owner, lease_s) for record in islice(self._claimable(), limit)]

    async def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        """Extend leases."""
        return [self._extend(lease, lease_s) for lease in leases]

    async def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        """End a job."""
        record = self._held(lease)
        if record is None:
            return False
        self._end(record, outcome)
        return True

    async def retry_or_finish(
        self, lease: Lease, outcome: JobOutcome, delay_s: float = 0.0
    ) -> JobState | None:
        """End an attempt."""
        record = self._held(lease)
        if record is None:
            return None
        if record.cancel_asked:
            self._end(record, cancelled())
        elif record.attempts >= record.max_attempts:
            self._end(record, outcome)
        else:
            self._requeue(record, logs.queued_again(outcome), delay_s)
        return record.state

    async def requeue(self, lease: Lease, delay_s: float = 0.0) -> bool:
        """Requeue a job."""
        record = self._held(lease)
        if record is None:
            return False
        if record.cancel_asked:
            self._end(record, cancelled())
            return True
        record.attempts -= 1
        self._requeue(record, [logs.QUEUED_AGAIN], delay_s)
        return True

    async def cancel(self, key_id: str, request_id: str) -> Cancellation:
        """Cancel a job."""
        record = self._of(key_id, request_id)
        if record is None:
            return Cancellation.NOT_FOUND
        if record.state.is_terminal:
            return Cancellation.ALREADY_COMPLETED
        if record.state is JobState.QUEUED:
            self._end(record, cancelled())
        elif not record.cancel_asked:
            record.cancel_asked = True
            self._log(record, [logs.CANCEL_ASKED])
        return Cancellation.REQUESTED

    async def rescue(self, limit: int = 100) -> Rescued:
        """Requeue or end jobs without a worker."""
        now = self._clock()
        requests = list(self._requests.values())
        lost = list(islice((r for r in requests if r.has_expired_lease(now)), limit))
        queued = (r for r in requests if r.state is JobState.QUEUED)
        late = list(islice((r for r in queued if r.is_past_start(now)), limit))
        for record in late:
            self._end(record, not_started())
        states = [self._rescue(record) for record in lost]
        return Rescued(
            requeued=states.count(JobState.QUEUED),
            failed=states.count(JobState.ERROR),
            cancelled=states.count(JobState.CANCELLED),
            expired=len(late),
        )

    async def prune(self, limit: int = 500) -> list[str]:
        """Prune expired rows."""
        now = self._clock()
        over = list(islice((r for r in self._requests.values() if self._is_over(r, now)), limit))
        for record in over:
            del self._requests[record.id]
        self._webhooks = {id: hook for id, hook in self._webhooks.items() if not is_old(hook, now)}
        self._keys = {id: key for id, key in self._keys.items() if not is_gone(key, now)}
        self._slots = {run: slot for run, slot in self._slots.items() if slot[1] > now}
        self._due = {key_id: due for key_id, due in self._due.items() if due > now}
        return [name for record in over for name in json.loads(record.files)]

    async def status(self, key_id: str, request_id: str) -> JobStatus | None:
        """The status of a job."""
        record = self._of(key_id, request_id)
        if record is None:
            return None
        return JobStatus(
            id=record.id,
            path=record.path,
            state=record.state,
            position=self._ahead(record) if record.state is JobState.QUEUED else None,
            logs=logs.decode(record.logs),
            error=record.error,
            error_type=record.error_type,
            inference_s=record.inference_s,
            num_tokens=record.num_tokens,
            truncated=bool(record.truncated),
            model=identity.model_in(json.loads(record.headers)),
        )

    async def result(self, key_id: str, request_id: str) -> StoredResponse | None:
        """The response of a job."""
        record = self._of(key_id, request_id)
        if record is None:
            return None
        headers = json.loads(record.headers)
        return StoredResponse(record.state, record.status, record.body, headers)

    async def position(self, request_id: str) -> int | None:
        """The number of jobs ahead."""
        record = self._requests.get(request_id)
        return self._ahead(record) if record and record.state is JobState.QUEUED else None

    async def backlog(self, cap: int = 1000) -> Backlog:
        """The number that a claim of `cap` would take."""
        now = self._clock()
        waits = [now - record.created_at for record in islice(self._claimable(), cap)]
        return Backlog(len(waits), max(waits, default=0.0))

    def _repeated(self, submission: Submission) -> Record | None:
        if submission.idempotency_key is None:
            return None
        used = submission.key_id, submission.idempotency_key
        known = [r for r in self._requests.values() if (r.key_id, r.idempotency_key) == used]
        if not known:
            return None
        if known[0].fingerprint != fingerprint(submission.path, submission.input):
            raise IdempotencyConflict
        return known[0]

    def _check_room(self, max_queue_length: int | None) -> None:
        bound = self._rules.max_queued
        if max_queue_length is not None:
            bound = min(bound, max_queue_length)
        if len(self._queue()) >= bound:
            raise QueueFull

    def _record(self, submission: Submission) -> Record:
        now, given, key = self._clock(), submission, submission.idempotency_key
        return Record(
            seq=next(self._seq),
            id=given.id,
            key_id=given.key_id,
            path=given.path,
            input=given.input,
            created_at=now,
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
        )

    def _queue(self) -> list[Record]:
        queued = [r for r in self._requests.values() if r.state is JobState.QUEUED]
        return sorted(queued, key=lambda record: record.place)

    def _ahead(self, record: Record) -> int:
        if record.state is not JobState.QUEUED:
            return 0
        ahead = sum(other.place < record.place for other in self._queue())
        return min(ahead, POSITION_CAP)

    def _claimable(self) -> Iterable[Record]:
        """The claimable jobs in order, within each key's limit."""
        now = self._clock()
        taken: dict[str, int] = {}
        for record in self._queue():
            key_id, bound = record.key_id, self._bound(record.key_id)
            if not record.is_claimable(now):
                continue
            if key_id not in taken:
                taken[key_id] = self._busy(key_id)
            if bound is None or taken[key_id] < bound:
                taken[key_id] += 1
                yield record

    def _bound(self, key_id: str) -> int | None:
        key = self._keys.get(key_id)
        return None if key is None else key.concurrency

    def _busy(self, key_id: str) -> int:
        """How many jobs and slots of the key are running."""
        now, requests = self._clock(), self._requests.values()
        running = sum(r.state is JobState.RUNNING and r.key_id == key_id for r in requests)
        return running + sum(of == key_id and now < til for of, til in self._slots.values())

    def _take(self, record: Record, owner: str, lease_s: float) -> Job:
        now = self._clock()
        record.state = JobState.RUNNING
        record.attempts += 1
        record.token += 1
        record.owner, record.lease_until = owner, now + lease_s
        self._log(record, [logs.started(record.attempts)])
        return Job(
            lease=Lease(record.id, record.token),
            attempt=record.attempts,
            key_id=record.key_id,
            path=record.path,
            input=record.input or "",
            base_url=record.base_url,
            priority=record.priority,
            files_ttl_s=record.files_ttl_s,
            waited_s=now - record.created_at,
            trace=record.trace,
        )

    def _extend(self, lease: Lease, lease_s: float) -> Heartbeat:
        record = self._held(lease)
        if record is None:
            return Heartbeat(lease, held=False, cancelled=False)
        record.lease_until = self._clock() + lease_s
        return Heartbeat(lease, held=True, cancelled=record.cancel_asked)

    def _held(self, lease: Lease) -> Record | None:
        record = self._requests.get(lease.id)
        if record and record.state is JobState.RUNNING and record.token == lease.token:
            return record
        return None

    def _of(self, key_id: str, request_id: str) -> Record | None:
        record = self._requests.get(request_id)
        return record if record and record.key_id == key_id else None

    def _rescue(self, record: Record) -> JobState:
        if record.cancel_asked:
            self._end(record, cancelled())
        elif record.attempts >= record.max_attempts:
            self._end(record, JobOutcome.failed(RunnerDisconnected()))
        else:
            record.token += 1
            self._requeue(record, [logs.QUEUED_AGAIN])
        return record.state

    def _requeue(self, record: Record, lines: Iterable[LogLine], delay_s: float = 0.0) -> None:
        record.state = JobState.QUEUED
        record.owner = record.lease_until = None
        record.not_before = self._clock() + delay_s
        self._log(record, lines)

    def _end(self, record: Record, outcome: JobOutcome) -> None:
        now = self._clock()
        record.state = outcome.state
        record.owner = record.lease_until = None
        record.ended_at = now
        record.expires_at = expires_at(outcome, record.keeps_input, self._rules, now)
        record.status, record.body = outcome.status, outcome.body
        record.headers, record.files = compact(dict(outcome.headers)), compact(outcome.files)
        record.error, record.error_type = outcome.error, outcome.error_type
        record.inference_s = outcome.inference_s
        record.num_tokens, record.truncated = outcome.num_tokens, int(outcome.truncated)
        if not record.keeps_input:
            record.input = None
        self._log(record, logs.ended(outcome))
        self._add_usage(usage_of(record, outcome, now))
        if webhook := webhook_of(record, outcome, now):
            self._webhooks.setdefault(webhook.id, webhook)

    def _log(self, record: Record, lines: Iterable[LogLine]) -> None:
        record.logs += logs.encode(lines, self._clock())

    def _is_over(self, record: Record, now: float) -> bool:
        hook = self._webhooks.get(record.id)
        is_awaited = hook is not None and hook.state is WebhookState.PENDING
        return record.expires_at is not None and record.expires_at <= now and not is_awaited

    # ------------------------------------------------------------------ webhooks

    async def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        """Claim due webhooks."""
        now = self._clock()
        pending = [h for h in self._webhooks.values() if h.state is WebhookState.PENDING]
        due = sorted((h for h in pending if h.next_at <= now), key=lambda hook: hook.next_at)
        return [
            self._put_webhook(
                replace(
                    hook,
                    attempts=hook.attempts + 1,
                    token=hook.token + 1,
                    next_at=now + lease_s,
                )
            )
            for hook in due[:limit]
        ]

    async def record_delivery(self, webhook_id: str, token: int, result: DeliveryResult) -> bool:
        """Record the result of a delivery."""
        hook = self._webhooks.get(webhook_id)
        if hook is None or hook.state is not WebhookState.PENDING or hook.token != token:
            return False
        next_at = hook.next_at if result.retry_s is None else self._clock() + result.retry_s
        self._put_webhook(
            replace(
                hook,
                state=result.state,
                last_status=result.status,
                last_error=result.error,
                next_at=next_at,
            )
        )
        return True

    async def webhooks(self, state: WebhookState | None = None, limit: int = 100) -> list[Webhook]:
        """The latest webhooks."""
        newest_first = reversed(self._webhooks.values())
        return list(islice((h for h in newest_first if state in (None, h.state)), limit))

    async def retry_webhook(self, webhook_id: str) -> bool:
        """Make a webhook due again."""
        hook = self._webhooks.get(webhook_id)
        if hook is None or hook.state is WebhookState.PENDING:
            return False
        state, now = WebhookState.PENDING, self._clock()
        # A new token, so that the old sender cannot settle it once more.
        self._put_webhook(replace(hook, state=state, attempts=0, token=hook.token + 1, next_at=now))
        return True

    async def signing_keys(self) -> list[PublicKey]:
        """The public halves of all webhook keys."""
        newest_first = sorted(self._signing_keys.values(), key=lambda key: -key.changed_at)
        return sorted(newest_first, key=lambda key: SIGNING_ORDER.index(key.state))

    async def put_signing_keys(self, keys: Sequence[PublicKey]) -> None:
        """Add or change keys."""
        now = self._clock()
        for key in keys:
            old = self._signing_keys.get(key.kid)
            changed_at = old.changed_at if old and old.state == key.state else now
            self._signing_keys[key.kid] = replace(key, changed_at=changed_at)

    def _put_webhook(self, hook: Webhook) -> Webhook:
        self._webhooks[hook.id] = hook
        return hook

    # ---------------------------------------------------------------------- keys

    async def add_key(self, key: ApiKey) -> None:
        """Keep a new key."""
        if key.id in self._keys:
            raise ValueError(f"there is a key {key.id} already")
        self._check_hash(key.hash)
        self._keys[key.id] = replace(key, created_at=self._clock())

    async def key_by_hash(self, key_hash: str) -> ApiKey | None:
        """The key with this hash."""
        now = self._clock()
        fitting = (key for key in self._keys.values() if key.hash == key_hash)
        return next((key for key in fitting if key.is_valid(now)), None)

    async def keys(self) -> list[ApiKey]:
        """All keys, oldest first."""
        return list(self._keys.values())

    async def revoke_key(self, key_id: str) -> bool:
        """Revoke a key."""
        key = self._keys.get(key_id)
        if key is None or key.revoked_at is not None:
            return False
        self._keys[key_id] = replace(key, revoked_at=self._clock())
        return True

    async def replace_key_hash(self, key_id: str, key_hash: str) -> bool:
        """Replace a key's hash."""
        key = self._keys.get(key_id)
        if key is None or key.revoked_at is not None:
            return False
        if key.hash != key_hash:
            self._check_hash(key_hash)
        self._keys[key_id] = replace(key, hash=key_hash)
        return True

    async def check_rate_limit(self, key_id: str, rate: float, burst: int) -> float:
        """Count one call against a rate."""
        wait, due = rate_limit(self._due.get(key_id, 0.0), self._clock(), rate, burst)
        self._due[key_id] = due
        return wait

    async def acquire_slot(self, key_id: str, run_id: str, ttl_s: float) -> bool:
        """Acquire a slot."""
        self._slots.pop(run_id, None)  # a run that asks again keeps one slot
        bound = self._bound(key_id)
        if bound is not None and self._busy(key_id) >= bound:
            return False
        self._slots[run_id] = key_id, self._clock() + ttl_s
        return True

    async def release_slot(self, run_id: str) -> None:
        """Release the slot."""
        self._slots.pop(run_id, None)

    async def add_usage(self, usages: Sequence[Usage]) -> None:
        """Add to the usage of keys."""
        for used in usages:
            self._add_usage(used)

    async def usage(self, since_day: str = "", key_id: str | None = None) -> list[Usage]:
        """The usage."""
        wanted = [u for u in self._usage.values() if since_day <= u.day]
        ordered = sorted(wanted, key=lambda used: (used.day, used.key_id, used.path))
        return [used for used in ordered if key_id in (None, used.key_id)]

    def _check_hash(self, key_hash: str) -> None:
        if any(key.hash == key_hash for key in self._keys.values()):
            raise ValueError("there is a key with this hash already")

    def _add_usage(self, used: Usage) -> None:
        place = used.day, used.key_id, used.path
        before = self._usage.get(place, replace(used, requests=0, images=0, model_s=0.0))
        self._usage[place] = replace(
            before,
            requests=before.requests + used.requests,
            images=before.images + used.images,
            model_s=before.model_s + used.model_s,
        )

    # ------------------------------------------------------------- all the rest

    async def now(self) -> float:
        """The store's clock."""
        return self._clock()

    async def stats(self, cap: int = MAX_COUNTED, max_keys: int = MAX_KEYS) -> StoreStats:
        """The counts of rows."""
        now = self._clock()
        states = Counter(record.state for record in self._requests.values())
        running = (r.key_id for r in self._requests.values() if r.state is JobState.RUNNING)
        busy = Counter(running) + Counter(of for of, until in self._slots.values() if now < until)
        hooks = Counter(hook.state for hook in self._webhooks.values())
        due = (h.next_at for h in self._webhooks.values() if h.state is WebhookState.PENDING)
        most = sorted(busy.items(), key=lambda each: (-each[1], each[0]))[:max_keys]
        return StoreStats(
            queued=min(cap, states[JobState.QUEUED]),
            running=min(cap, states[JobState.RUNNING]),
            keys=dict(most),
            webhooks={state: min(cap, hooks[state]) for state in WebhookState},
            overdue_s=max(0.0, now - min(due, default=now)),
        )

    async def secret(self, name: str, fresh: bytes) -> bytes:
        """The secret called `name`."""
        return self._secrets.setdefault(name, fresh)

    async def read_rows(self, table: str) -> AsyncIterator[Row]:
        """Every row of a table."""
        for row in self._rows(table):
            yield row

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows of another store."""
        known = {self._key_of(table, row) for row in self._rows(table)}
        for row in rows:
            if self._key_of(table, row) in known:
                raise ValueError(f"{table}: there is a row {self._key_of(table, row)} already")
            known.add(self._key_of(table, row))
        for row in rows:
            self._add_row(table, row)

    async def close(self) -> None:
        """Nothing to close."""

    def _rows(self, table: str) -> list[Row]:
        if table == "secret":
            return [{"name": name, "value": it.hex()} for name, it in self._secrets.items()]
        kept: dict[str, Iterable[object]] = {
            "request": self._requests.values(),
            "webhook": self._webhooks.values(),
            "api_key": self._keys.values(),
            "usage": self._usage.values(),
            "signing_key": self._signing_keys.values(),
        }
        return [row_of(table, each) for each in kept[table]]

    def _key_of(self, table: str, row: Row) -> object:
        if table == "usage":
            return row["day"], row["key_id"], row["path"]
        return row[COLUMNS[table][0]]

    def _add_row(self, table: str, row: Row) -> None:
        if table == "request":
            self._requests[row["id"]] = record_of(row, next(self._seq))
        elif table == "webhook":
            self._put_webhook(Webhook(**row | {"state": WebhookState(row["state"])}))
        elif table == "api_key":
            self._keys[row["id"]] = ApiKey(**row)
        elif table == "usage":
            self._add_usage(Usage(**row))
        elif table == "signing_key":
            self._signing_keys[row["kid"]] = PublicKey(**row)
        else:
            self._secrets[row["name"]] = bytes.fromhex(row["value"])


def is_old(hook: Webhook, now: float) -> bool:
    """Whether a webhook is settled and past its retention."""
    is_settled = hook.state is not WebhookState.PENDING
    return is_settled and hook.created_at + WEBHOOK_TTL_S <= now


def is_gone(key: ApiKey, now: float) -> bool:
    """Whether a revoked key is past its retention."""
    return key.revoked_at is not None and key.revoked_at + REVOKED_KEY_TTL_S <= now


def row_of(table: str, kept: object) -> Row:
    """`kept` as the columns of `table`, flags and states as plain values."""
    values = {field.name: getattr(kept, field.name) for field in fields(kept)}  # type: ignore[arg-type]
    return {column: plain(values[column]) for column in COLUMNS[table]}


def plain(value: object) -> object:
    """A flag as 0 or 1, a state as its text, all else as it is."""
    if isinstance(value, bool):
        return int(value)
    return str(value) if isinstance(value, JobState | WebhookState) else value


def record_of(row: Row, seq: int) -> Record:
    """The job in `row`, at the place `seq`."""
    flags = {name: bool(row[name]) for name in ("keeps_input", "cancel_asked")}
    return Record(seq=seq, **row | flags | {"state": JobState(row["state"])})
