"""Invariants of jobs hold after each step of random histories.

The store under test lives the same life as the model in memory, which says what must happen.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from deployments.errors import GenerationError, IdempotencyConflict, QueueFull
from deployments.jobs import job_log as logs
from deployments.jobs.api_key import ApiKey
from deployments.jobs.job import Job, JobOutcome, JobState, Lease, Submission, Submitted
from deployments.jobs.store import Row, RowStore
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import DeliveryResult, Webhook
from tests.jobs.bench import Benches

T = TypeVar("T")

RULES = QueueSettings(max_queued=8, large_result_bytes=100)
LIMITS = {"one": 1, "two": 2, "free": inf}
LEASE_S = 10
SLOT_S = 30
MAX_DELIVERIES = 3
TIMES = {"created_at", "ended_at", "expires_at", "start_by", "not_before", "lease_until", "next_at"}
TERMINAL = {state.value for state in JobState if state.is_terminal}
# Whole seconds throughout: a real clock that runs a little ahead then changes no comparison.
DELAYS = st.sampled_from([0, 3, 30])
STEPS = st.sampled_from([1, 2, 5, 11, 60, 400, 4000])
ENDINGS = st.sampled_from(
    [
        JobOutcome.done({"found": 1}, inference_s=0.25, files=("a.png",)),
        JobOutcome.done("x" * 100),
        JobOutcome.failed(GenerationError()),
    ]
)
SUBMISSIONS = st.fixed_dictionaries(
    {
        "key_id": st.sampled_from(sorted(LIMITS)),
        "input": st.sampled_from(["{}", "[]"]),
        "priority": st.sampled_from([0, 1]),
        "start_timeout_s": st.sampled_from([None, None, 4, 20]),
        "max_attempts": st.sampled_from([1, 2, 3]),
        "max_queue_length": st.sampled_from([None, None, 4]),
        "webhook_url": st.sampled_from([None, "https://receiver.test/"]),
        "idempotency_key": st.sampled_from([None, None, "once"]),
        "keeps_input": st.booleans(),
    }
)


class Life(RuleBasedStateMachine):
    """A random history of jobs in one store of `kind`."""

    requests: Bundle[Submission] = Bundle("requests")
    leases: Bundle[Lease] = Bundle("leases")
    runs: Bundle[str] = Bundle("runs")
    hooks: Bundle[Webhook] = Bundle("hooks")

    def __init__(self, kind: str, url: str | None) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._benches = Benches(Path(self._folder.name), url)
        self._bench = self._do(self._benches.open(kind, RULES))
        self._spec = self._do(self._benches.open("memory", RULES))
        self._num = 0
        self._elapsed = 0
        self._slots: dict[str, tuple[str, int]] = {}  # of runs: the key, and until when
        self._submitted: dict[str, Submission] = {}
        self._forgotten: set[str] = set()
        self._rows: dict[str, Row] = {}
        for key_id, limit in LIMITS.items():
            bound = None if limit == inf else int(limit)
            self._both(partial(added, key=ApiKey(id=key_id, hash=key_id, concurrency=bound)))

    def teardown(self) -> None:
        """All workers die. After a rescue, every job and every webhook comes to an end."""
        try:
            self._live_to_the_end()
        finally:
            self._do(self._benches.close())
            self._runner.close()
            self._folder.cleanup()

    # ---------------------------------------------------------------------- rules

    @initialize(target=requests, given=st.lists(SUBMISSIONS, min_size=3, max_size=6))
    def begin(self, given: list[dict[str, Any]]) -> MultipleResults[Submission]:
        """The store begins with some jobs."""
        created = (self._submit(each) for each in given)
        return multiple(*(submission for submission in created if submission))

    @rule(target=requests, given=st.lists(SUBMISSIONS, min_size=2, max_size=4))
    def submit(self, given: list[dict[str, Any]]) -> MultipleResults[Submission]:
        """Clients submit jobs, which are added or refused."""
        created = (self._submit(each) for each in given)
        return multiple(*(submission for submission in created if submission))

    @precondition(lambda self: self._has(JobState.QUEUED))
    @rule(target=leases, limit=st.integers(0, 4))
    def claim(self, limit: int) -> MultipleResults[Lease]:
        """A worker claims exactly what the rules of the queue say."""
        expected = self._claimable()[:limit]
        claimed = self._both(partial(claimed_by, limit=limit))
        assert [each.lease.id for each in claimed] == expected
        return multiple(*(each.lease for each in claimed))

    @precondition(lambda self: self._has(JobState.QUEUED))
    @rule(target=leases, limits=st.lists(st.integers(1, 2), min_size=2, max_size=3))
    def claim_at_once(self, limits: list[int]) -> MultipleResults[Lease]:
        """Simultaneous claims take together what one claim would."""
        expected = self._claimable()[: sum(limits)]
        claimed = self._both(partial(claimed_by_all, limits=limits))
        assert sorted(lease.id for lease in claimed) == sorted(expected)
        return multiple(*claimed)

    @rule(one=leases, another=leases)
    def heartbeat(self, one: Lease, another: Lease) -> None:
        """A worker sends its heartbeats."""
        held = [one, another]
        answers = self._both(lambda store: store.heartbeat(held, LEASE_S))
        assert [answer.lease for answer in answers] == held
        assert [answer.held for answer in answers] == [self._is_latest(lease) for lease in held]

    @rule(lease=leases, outcome=ENDINGS)
    def finish(self, lease: Lease, outcome: JobOutcome) -> None:
        """A worker finishes, which counts if its lease is valid."""
        is_latest = self._is_latest(lease)
        assert self._both(lambda store: store.finish(lease, outcome)) == is_latest

    @rule(lease=leases, delay_s=DELAYS)
    def retry_or_finish(self, lease: Lease, delay_s: int) -> None:
        """A worker's attempt fails."""
        outcome = JobOutcome.failed(GenerationError())
        state = self._both(lambda store: store.retry_or_finish(lease, outcome, delay_s))
        assert (state is not None) == self._is_latest(lease)

    @rule(lease=leases, delay_s=DELAYS)
    def requeue(self, lease: Lease, delay_s: int) -> None:
        """A worker shuts down."""
        is_latest = self._is_latest(lease)
        assert self._both(lambda store: store.requeue(lease, delay_s)) == is_latest

    @rule(request=requests, key_id=st.sampled_from(sorted(LIMITS)))
    def cancel(self, request: Submission, key_id: str) -> None:
        """A client cancels a job, perhaps another key's."""
        self._both(lambda store: store.cancel(key_id, request.id))

    @precondition(lambda self: self._has(JobState.RUNNING) or self._has(JobState.QUEUED))
    @rule()
    def rescue(self) -> None:
        """Jobs with an expired lease are requeued or end."""
        self._both(lambda store: store.rescue())

    @precondition(lambda self: any(row["state"] in TERMINAL for row in self._rows.values()))
    @rule()
    def prune(self) -> None:
        """Only expired rows are pruned."""
        self._both(pruned)
        gone = self._rows.keys() - self._read_rows().keys()
        now = self._now()
        assert all(self._rows[id_]["expires_at"] <= now + 1 for id_ in gone)
        assert not gone & self._awaiting()
        self._forgotten |= gone

    @rule(seconds=STEPS)
    def advance(self, seconds: int) -> None:
        """Time passes."""
        self._elapsed += seconds
        self._do(self._bench.advance(seconds))
        self._do(self._spec.advance(seconds))

    @rule(target=runs, key_id=st.sampled_from(sorted(LIMITS)))
    def acquire_slot(self, key_id: str) -> MultipleResults[str]:
        """A synchronous run begins, if its key has a free slot."""
        self._num += 1
        run_id, until = f"run {self._num}", self._elapsed + SLOT_S
        has_room = self._free_slots()[key_id] > 0
        assert self._both(lambda store: store.acquire_slot(key_id, run_id, SLOT_S)) == has_room
        if not has_room:
            return multiple()
        self._slots[run_id] = key_id, until
        return multiple(run_id)

    @rule(run_id=consumes(runs))
    def release_slot(self, run_id: str) -> None:
        """A synchronous run ends."""
        del self._slots[run_id]
        self._both(lambda store: store.release_slot(run_id))

    @precondition(lambda self: self._awaiting())
    @rule(target=hooks)
    def claim_webhooks(self) -> MultipleResults[Webhook]:
        """A sender takes all webhooks that are due."""
        return multiple(*self._both(due_webhooks))

    @rule(hook=hooks, is_delivered=st.booleans())
    def record_delivery(self, hook: Webhook, is_delivered: bool) -> None:
        """A delivery succeeds or fails; after some attempts it is dead."""
        self._both(partial(delivered, hook=hook, is_delivered=is_delivered))

    # ----------------------------------------------------------------- invariants

    @invariant()
    def lives_as_it_should(self) -> None:
        """All rows equal those of the memory store, except their times."""
        self._both(lambda store: timeless(store, "request"))
        self._both(lambda store: timeless(store, "webhook"))
        self._both(used)

    @invariant()
    def changes_as_it_may(self) -> None:
        """No job is lost, none changes after its end, tokens and logs only grow."""
        rows = self._read_rows()
        assert rows.keys() == self._submitted.keys() - self._forgotten
        for id_, before in self._rows.items():
            if id_ in rows:
                check_change(before, rows[id_])
        self._rows = rows

    @invariant()
    def keeps_limits(self) -> None:
        """No job exceeds its attempts, and no key its limit."""
        rows = self._read_rows().values()
        assert all(row["attempts"] <= row["max_attempts"] for row in rows)
        assert min(self._free_slots().values()) >= 0

    @invariant()
    def has_true_positions(self) -> None:
        """Positions follow the order of the queue; another key sees nothing."""
        for position, row in enumerate(self._queue()):
            status = self._do(self._bench.store.status(row["key_id"], row["id"]))
            assert status
            assert (status.state, status.position) == (JobState.QUEUED, position)
            assert self._do(self._bench.store.status("stranger", row["id"])) is None

    @invariant()
    def has_one_webhook_for_each_end(self) -> None:
        """Each ended job with a URL has one webhook; there are no others."""
        hooks = self._do(self._bench.store.webhooks(limit=1000))
        ended = {id_ for id_, row in self._read_rows().items() if row["state"] in TERMINAL}
        wanted = {id_ for id_ in ended | self._forgotten if self._submitted[id_].webhook_url}
        assert Counter(hook.id for hook in hooks) == Counter(wanted)

    # -------------------------------------------------------------------- details

    def _submit(self, given: dict[str, Any]) -> Submission | None:
        """The job that was created, if one was."""
        self._num += 1
        submission = Submission(id=f"r{self._num:04}", path="caption", **given)
        answer = self._both(partial(submitted, submission=submission))
        if not isinstance(answer, Submitted):
            return None
        assert answer.created == (answer.id == submission.id)
        if not answer.created:
            return None
        self._submitted[submission.id] = submission
        return submission

    def _live_to_the_end(self) -> None:
        self.advance(60)
        self.rescue()
        while claimed := self._both(partial(claimed_by, limit=100)):
            for each in claimed:
                self._both(partial(finished, lease=each.lease))
        assert all(row["state"] in TERMINAL for row in self._read_rows().values())
        while hooks := self._both(due_webhooks):
            for hook in hooks:
                self._both(partial(delivered, hook=hook, is_delivered=False))
            self.advance(60)
        self.lives_as_it_should()
        self.has_one_webhook_for_each_end()
        assert not self._awaiting()

    def _do(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self._runner.run(wait())

    def _both(self, work: Callable[[RowStore], Awaitable[T]]) -> T:
        """The result of `work`, equal in the store under test and the memory store."""
        expected = self._do(work(self._spec.store))
        assert self._do(work(self._bench.store)) == expected
        return expected

    def _has(self, state: JobState) -> bool:
        return any(row["state"] == state for row in self._rows.values())

    def _now(self) -> float:
        return self._do(self._bench.store.now())

    def _read_rows(self) -> dict[str, Row]:
        return {row["id"]: row for row in self._do(rows_of(self._bench.store, "request"))}

    def _queue(self) -> list[Row]:
        queued = [row for row in self._read_rows().values() if row["state"] == JobState.QUEUED]
        return sorted(queued, key=lambda row: row["priority"])

    def _is_latest(self, lease: Lease) -> bool:
        row = self._rows.get(lease.id)
        return bool(row and (row["state"], row["token"]) == (JobState.RUNNING, lease.token))

    def _awaiting(self) -> set[str]:
        """The ids of those whose webhooks are pending."""
        hooks = self._do(rows_of(self._bench.store, "webhook"))
        return {row["id"] for row in hooks if row["state"] == "pending"}

    def _claimable(self) -> list[str]:
        """The claimable jobs, computed without a database."""
        now, free, taken = self._now(), self._free_slots(), []
        for row in self._queue():
            is_late = row["start_by"] is not None and row["start_by"] <= now and not row["attempts"]
            if row["not_before"] <= now and not is_late and free[row["key_id"]] > 0:
                free[row["key_id"]] -= 1
                taken.append(row["id"])
        return taken

    def _free_slots(self) -> dict[str, float]:
        """The free slots of each key."""
        runs = [key_id for key_id, until in self._slots.values() if until > self._elapsed]
        requests = [r["key_id"] for r in self._rows.values() if r["state"] == JobState.RUNNING]
        taken = Counter(runs + requests)
        return {key_id: limit - taken[key_id] for key_id, limit in LIMITS.items()}


def check_change(before: Row, after: Row) -> None:
    """A job that was `before` may be `after`."""
    if before["state"] in TERMINAL:
        assert after == before
    assert after["token"] >= before["token"]
    assert after["logs"].startswith(before["logs"])


async def added(store: RowStore, key: ApiKey) -> None:
    """Add a key."""
    await store.add_key(key)


async def finished(store: RowStore, lease: Lease) -> bool:
    """Finish a job."""
    return await store.finish(lease, JobOutcome.done({}))


async def submitted(store: RowStore, submission: Submission) -> Submitted | type[Exception]:
    """The result of a submit."""
    try:
        return await store.submit(submission)
    except (QueueFull, IdempotencyConflict) as error:
        return type(error)


async def claimed_by(store: RowStore, limit: int) -> list[Job]:
    """A claimed job without its waiting time."""
    claimed = await store.claim("worker", limit, LEASE_S)
    return [replace(each, waited_s=0.0) for each in claimed]


async def claimed_by_all(store: RowStore, limits: list[int]) -> list[Lease]:
    """The jobs of simultaneous claims."""
    claims = await asyncio.gather(*(claimed_by(store, limit) for limit in limits))
    return sorted((each.lease for claim in claims for each in claim), key=lambda lease: lease.id)


async def pruned(store: RowStore) -> list[str]:
    """The files that a prune returns."""
    return sorted(await store.prune())


async def due_webhooks(store: RowStore) -> list[Webhook]:
    """Claimed webhooks without their times."""
    hooks = [replace(h, next_at=0.0, created_at=0.0) for h in await store.claim_webhooks(99, 9)]
    return sorted(hooks, key=lambda hook: hook.id)


async def delivered(store: RowStore, hook: Webhook, is_delivered: bool) -> bool:
    """The result of a delivery, which is dead after a few attempts."""
    if is_delivered:
        return await store.record_delivery(hook.id, hook.token, DeliveryResult(status=200))
    retry_s = 3.0 if hook.attempts < MAX_DELIVERIES else None
    return await store.record_delivery(
        hook.id, hook.token, DeliveryResult(error="500", retry_s=retry_s)
    )


async def timeless(store: RowStore, table: str) -> list[Row]:
    """The rows of a table, with each time replaced by whether it is set."""
    rows = [row async for row in store.read_rows(table)]
    return sorted((without_times(row) for row in rows), key=lambda row: str(row["id"]))


def without_times(row: Row) -> Row:
    """A row, with each time replaced by whether it is set, also in its log."""
    plain = {name: value is not None if name in TIMES else value for name, value in row.items()}
    if "logs" in row:
        plain["logs"] = [entry.message for entry in logs.decode(row["logs"])]
    return plain


async def used(store: RowStore) -> Counter[tuple[str, str]]:
    """The usage of keys over all days."""
    total: Counter[tuple[str, str]] = Counter()
    for each in await store.usage():
        total[each.key_id, "requests"] += each.requests
        total[each.key_id, "images"] += each.images
        total[each.key_id, "quarters"] += round(each.model_s * 4)
    return total


async def rows_of(store: RowStore, table: str) -> list[Row]:
    """All rows of a table."""
    return [row async for row in store.read_rows(table)]


@pytest.mark.parametrize(
    ("kind", "num_lives", "num_steps"),
    [
        ("sqlite", 3, 30),
        pytest.param("sqlite", 20, 50, marks=pytest.mark.slow),
        pytest.param("postgres", 20, 50, marks=pytest.mark.slow),
    ],
)
def test_life(kind: str, num_lives: int, num_steps: int, url: str | None) -> None:
    """Histories from hypothesis, the same in each run."""

    class Lived(Life):
        def __init__(self) -> None:
            super().__init__(kind, url)

    run_state_machine_as_test(
        Lived,
        settings=settings(
            max_examples=num_lives,
            stateful_step_count=num_steps,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
