"""The contract of every store: a test for each sentence of the protocol."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from deployments.errors import (
    ClientCancelled,
    FileDownloadError,
    GenerationError,
    IdempotencyConflict,
    QueueFull,
    RunnerDisconnected,
    ServiceError,
    StartTimeout,
)
from deployments.jobs.api_key import ApiKey, Usage
from deployments.jobs.job import (
    Backlog,
    Cancellation,
    Job,
    JobOutcome,
    JobState,
    Lease,
    LogLine,
    Rescued,
    StoredResponse,
    Submission,
    Submitted,
    compact,
)
from deployments.jobs.rows import COLUMNS, TABLES
from deployments.jobs.store import POSITION_CAP, Row, RowStore
from deployments.jobs.transitions import webhook_body
from deployments.settings import QueueSettings
from deployments.webhooks.webhook import DeliveryResult, PublicKey, WebhookState
from tests.jobs.bench import KINDS, Bench, Benches

pytestmark = pytest.mark.anyio

KEY = "key"
PATH = "object-detection"
HOOK = "https://receiver.test/hook"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LEASE_S = 15.0
LONG = 10.0  # an advance that no jitter of a real clock can undo
DAY_S = 24 * 3600.0
DONE = JobOutcome.done({"ok": True})
FAILED = JobOutcome.failed(FileDownloadError())
numbers = count()


def submission(**given: Any) -> Submission:
    """A submission with an id of its own and with `given`."""
    plain = {"id": f"r{next(numbers):06}", "key_id": KEY, "path": PATH, "input": '{"n":1}'}
    return Submission(**plain | given)


async def submit(store: RowStore, num: int = 1, **given: Any) -> list[str]:
    """Submit `num` jobs; their ids."""
    return [(await store.submit(submission(**given))).id for _ in range(num)]


async def claim(store: RowStore, limit: int = 100, lease_s: float = LEASE_S) -> list[Job]:
    """Claim jobs."""
    return await store.claim("worker", limit, lease_s)


async def claim_ids(store: RowStore, limit: int = 100) -> list[str]:
    """Claim jobs; their ids."""
    return [claimed.lease.id for claimed in await claim(store, limit)]


async def begin(store: RowStore, **given: Any) -> Lease:
    """The lease on a job that was just submitted and claimed."""
    await submit(store, **given)
    (claimed,) = await claim(store)
    return claimed.lease


async def state_of(store: RowStore, request_id: str, key_id: str = KEY) -> JobState:
    """The state of a job."""
    status = await store.status(key_id, request_id)
    assert status
    return status.state


async def messages(store: RowStore, request_id: str) -> list[str]:
    """The log of a job."""
    status = await store.status(KEY, request_id)
    assert status
    return [entry.message for entry in status.logs]


async def rows_of(store: RowStore, table: str) -> list[Row]:
    """All rows of a table."""
    return [row async for row in store.read_rows(table)]


async def limit_key(store: RowStore, concurrency: int | None, key_id: str = KEY) -> None:
    """Store a key with a limit."""
    await store.add_key(ApiKey(id=key_id, hash=f"hash of {key_id}", concurrency=concurrency))


def response(error: ServiceError) -> tuple[int, str, dict[str, str]]:
    """The response for `error`."""
    return error.status, compact(error.body()), error.headers()


async def response_of(store: RowStore, request_id: str) -> tuple[int, str, dict[str, str]]:
    """The status of a job's response."""
    result = await store.result(KEY, request_id)
    assert result
    return result.status, result.body, dict(result.headers)


# ---------------------------------------------------------------------- submit


async def test_submit_returns_the_position(bench: Bench) -> None:
    """A new job is queued behind the others."""
    first, second = submission(), submission()
    assert await bench.store.submit(first) == Submitted(first.id, 0, created=True)
    assert await bench.store.submit(second) == Submitted(second.id, 1, created=True)
    assert await state_of(bench.store, second.id) is JobState.QUEUED


async def test_places_a_priority_before_the_next(bench: Bench) -> None:
    """Priority 0 goes before all of priority 1, also when it comes later."""
    await submit(bench.store, 2, priority=1)
    assert (await bench.store.submit(submission(priority=0))).position == 0
    assert (await bench.store.submit(submission(priority=1))).position == 3


async def test_same_id_is_the_same_job(bench: Bench) -> None:
    """The same id again, queued or ended, gives the existing job."""
    given = submission()
    await bench.store.submit(given)
    assert await bench.store.submit(given) == Submitted(given.id, 0, created=False)
    (claimed,) = await claim(bench.store)
    await bench.store.finish(claimed.lease, DONE)
    assert await bench.store.submit(given) == Submitted(given.id, 0, created=False)
    assert await claim_ids(bench.store) == []


async def test_same_idempotency_key_is_the_same_job(bench: Bench) -> None:
    """The same idempotency key of the same API key gives the existing job."""
    await submit(bench.store)
    (known,) = await submit(bench.store, idempotency_key="once")
    again = await bench.store.submit(submission(idempotency_key="once"))
    assert again == Submitted(known, 1, created=False)
    assert await claim_ids(bench.store) != []
    again = await bench.store.submit(submission(idempotency_key="once"))
    assert again == Submitted(known, 0, created=False)


async def test_idempotency_survives_the_input(bench: Bench) -> None:
    """A repeated submit finds its job after the input was deleted."""
    given = submission(idempotency_key="once", keeps_input=False)
    await bench.store.submit(given)
    (claimed,) = await claim(bench.store)
    await bench.store.finish(claimed.lease, DONE)
    again = await bench.store.submit(replace(given, id="another"))
    assert again == Submitted(given.id, 0, created=False)


@pytest.mark.parametrize("change", [{"path": "caption"}, {"input": '{"n":2}'}])
async def test_idempotency_key_is_for_one_job(bench: Bench, change: dict[str, str]) -> None:
    """An idempotency key that was used for another path or input is refused."""
    await submit(bench.store, idempotency_key="once")
    with pytest.raises(IdempotencyConflict):
        await bench.store.submit(submission(idempotency_key="once", **change))
    assert (await bench.store.backlog()).queued == 1


async def test_idempotency_key_is_of_one_api_key(bench: Bench) -> None:
    """Two API keys may use the same idempotency key."""
    await submit(bench.store, idempotency_key="once")
    submitted = await bench.store.submit(submission(key_id="other", idempotency_key="once"))
    assert submitted.created


async def test_repeats_at_once_are_one_job(bench: Bench) -> None:
    """Of many submits with one idempotency key at the same time, one creates."""
    submissions = [submission(idempotency_key="once") for _ in range(20)]
    answers = await asyncio.gather(*(bench.store.submit(each) for each in submissions))
    assert [answer.created for answer in answers].count(True) == 1
    assert len({answer.id for answer in answers}) == 1
    assert (await bench.store.backlog()).queued == 1


async def test_a_caller_bounds_the_queue(bench: Bench) -> None:
    """A submit is refused when as many wait as its `max_queue_length`; running ones do not."""
    await submit(bench.store, 2)
    with pytest.raises(QueueFull):
        await submit(bench.store, max_queue_length=2)
    await submit(bench.store, max_queue_length=3)
    await claim(bench.store)
    await submit(bench.store, max_queue_length=1)
    with pytest.raises(QueueFull):
        await submit(bench.store, max_queue_length=0)


async def test_the_store_bounds_the_queue(benches: Benches, kind: str) -> None:
    """No more than `max_queued` wait, for any keys and any number at once."""
    store = (await benches.open(kind, QueueSettings(max_queued=5))).store
    submissions = [submission(key_id=f"key {n % 3}") for n in range(20)]
    answers = await asyncio.gather(*map(store.submit, submissions), return_exceptions=True)
    assert Counter(type(answer) for answer in answers) == {Submitted: 5, QueueFull: 15}
    await claim(store, 1)
    await submit(store)
    with pytest.raises(QueueFull):
        await submit(store)


async def test_the_bound_knows_what_comes_back(benches: Benches, kind: str) -> None:
    """Jobs that are queued again count, those that were cancelled do not."""
    store = (await benches.open(kind, QueueSettings(max_queued=2))).store
    lease = await begin(store)
    (waiting,) = await submit(store)
    assert await store.requeue(lease)
    with pytest.raises(QueueFull):
        await submit(store)
    await store.cancel(KEY, waiting)
    await submit(store)


async def test_a_repeat_is_answered_by_a_full_queue(benches: Benches, kind: str) -> None:
    """A repeated submit is not refused by a full queue."""
    store = (await benches.open(kind, QueueSettings(max_queued=1))).store
    given = submission(idempotency_key="once", max_queue_length=1)
    await store.submit(given)
    assert not (await store.submit(given)).created
    assert not (await store.submit(replace(given, id="another"))).created


# ----------------------------------------------------------------------- claim


async def test_a_worker_gets_what_was_submitted(bench: Bench) -> None:
    """A claim has all that a worker needs, and the job's waiting time."""
    given = submission(
        input='{"é":"\\u0000"}', base_url="http://x", priority=1, files_ttl_s=60.0, trace=TRACE
    )
    await bench.store.submit(given)
    await bench.advance(LONG)
    (claimed,) = await claim(bench.store)
    assert claimed == Job(
        lease=Lease(given.id, 1),
        attempt=1,
        key_id=KEY,
        path=PATH,
        input=given.input,
        base_url="http://x",
        priority=1,
        files_ttl_s=60.0,
        waited_s=claimed.waited_s,
        trace=TRACE,
    )
    assert claimed.waited_s == pytest.approx(LONG, abs=2)
    assert await state_of(bench.store, given.id) is JobState.RUNNING


async def test_claims_in_order(bench: Bench) -> None:
    """Priority first, then arrival; no more than are wanted."""
    low = await submit(bench.store, 3, priority=1)
    high = await submit(bench.store, 3, priority=0)
    assert await claim_ids(bench.store, 4) == [*high, low[0]]
    assert await claim_ids(bench.store, 4) == low[1:]
    assert await claim_ids(bench.store, 4) == []


async def test_claims_in_order_among_keys(bench: Bench) -> None:
    """The order of arrival holds across keys."""
    ids = [(await submit(bench.store, key_id=f"key {n % 3}"))[0] for n in range(9)]
    assert await claim_ids(bench.store, 5) == ids[:5]
    assert await claim_ids(bench.store) == ids[5:]


async def test_a_priority_goes_before_other_keys(bench: Bench) -> None:
    """Priority comes first across keys, too."""
    (low,) = await submit(bench.store, key_id="a", priority=1)
    (high,) = await submit(bench.store, key_id="b", priority=0)
    assert await claim_ids(bench.store, 1) == [high]
    assert await claim_ids(bench.store, 1) == [low]


async def test_claims_nothing_for_nothing(bench: Bench) -> None:
    """A limit of 0 claims nothing."""
    await submit(bench.store)
    assert await claim_ids(bench.store, 0) == []


async def test_waits_out_a_delay(bench: Bench) -> None:
    """A failed job is not claimed during its delay; jobs behind it are."""
    lease = await begin(bench.store)
    await bench.store.retry_or_finish(lease, FAILED, delay_s=60.0)
    others = await submit(bench.store, 2)
    assert await claim_ids(bench.store) == others
    await bench.advance(61.0)
    (claimed,) = await claim(bench.store)
    assert (claimed.lease, claimed.attempt) == (Lease(lease.id, 2), 2)


async def test_a_delay_in_the_midst_of_a_queue(bench: Bench) -> None:
    """Jobs before and behind a delayed one are claimed."""
    before, delayed, behind = await submit(bench.store, 3)
    leases = {claimed.lease.id: claimed.lease for claimed in await claim(bench.store)}
    await bench.store.requeue(leases[before])
    await bench.store.retry_or_finish(leases[delayed], FAILED, delay_s=60.0)
    await bench.store.requeue(leases[behind])
    assert await claim_ids(bench.store) == [before, behind]


async def test_one_past_its_start_timeout_in_the_midst_of_a_queue(bench: Bench) -> None:
    """Jobs before and behind one past its start timeout are claimed."""
    (before,) = await submit(bench.store)
    await submit(bench.store, start_timeout_s=60.0)
    (behind,) = await submit(bench.store)
    await bench.advance(61.0)
    assert await claim_ids(bench.store) == [before, behind]


async def test_claims_none_past_its_start_timeout(bench: Bench) -> None:
    """A job past its start timeout is not claimed, also before a rescue."""
    await submit(bench.store, start_timeout_s=60.0)
    (longer,) = await submit(bench.store, start_timeout_s=90.0)
    await bench.advance(61.0)
    assert await claim_ids(bench.store) == [longer]


async def test_the_start_timeout_is_that_of_the_first_attempt(bench: Bench) -> None:
    """A job that started in time may start again later."""
    lease = await begin(bench.store, start_timeout_s=60.0)
    await bench.store.retry_or_finish(lease, FAILED)
    await bench.advance(61.0)
    assert await bench.store.rescue() == Rescued()
    assert await claim_ids(bench.store) == [lease.id]


async def test_a_key_runs_no_more_than_it_may(bench: Bench) -> None:
    """Jobs of a key at its limit stay; jobs of other keys behind them are claimed."""
    await limit_key(bench.store, 2)
    ids = await submit(bench.store, 50)
    others = await submit(bench.store, 3, key_id="other")
    assert await claim_ids(bench.store, 4) == [*ids[:2], *others[:2]]
    assert await claim_ids(bench.store, 4) == others[2:]
    assert await claim_ids(bench.store, 4) == []


async def test_an_end_lets_the_next_job_of_the_key_run(bench: Bench) -> None:
    """When a job of a key at its limit ends, the next one is claimed."""
    await limit_key(bench.store, 1)
    ids = await submit(bench.store, 3)
    (claimed,) = await claim(bench.store)
    await bench.store.finish(claimed.lease, DONE)
    assert await claim_ids(bench.store) == ids[1:2]


async def test_slots_of_runs_count(bench: Bench) -> None:
    """Synchronous runs and jobs of a key share its limit; an expired slot does not count."""
    await limit_key(bench.store, 2)
    ids = await submit(bench.store, 3)
    assert await bench.store.acquire_slot(KEY, "run", ttl_s=60.0)
    assert await claim_ids(bench.store) == ids[:1]
    await bench.advance(61.0)
    assert await claim_ids(bench.store) == ids[1:2]


async def test_limits_hold_among_claimers(bench: Bench) -> None:
    """With many claimers, no key exceeds its limit, and no job is claimed twice."""
    limits = {"one": 1, "three": 3, "free": None}
    for key_id, limit in limits.items():
        await limit_key(bench.store, limit, key_id)
        await submit(bench.store, 10, key_id=key_id)
    claims = await asyncio.gather(*(claim(bench.store, 3) for _ in range(12)))
    taken = [claimed for each in claims for claimed in each]
    assert Counter(claimed.key_id for claimed in taken) == {"one": 1, "three": 3, "free": 10}
    assert len({claimed.lease.id for claimed in taken}) == len(taken)


async def test_a_low_priority_goes_on_where_the_high_one_ends(bench: Bench) -> None:
    """A key's limit is filled over its priorities, the higher one first."""
    await limit_key(bench.store, 4)
    low = await submit(bench.store, 3, priority=1)
    high = await submit(bench.store, 2, priority=0)
    assert await claim_ids(bench.store) == [*high, *low[:2]]


# ------------------------------------------------------------------------ beat


async def test_a_heartbeat_extends_the_lease(bench: Bench) -> None:
    """An extended lease expires at its new end."""
    lease = await begin(bench.store)
    await bench.advance(LEASE_S - 5)
    (beat,) = await bench.store.heartbeat([lease], LEASE_S)
    assert (beat.lease, beat.held, beat.cancelled) == (lease, True, False)
    await bench.advance(LEASE_S - 5)
    assert await bench.store.rescue() == Rescued()
    await bench.advance(LONG)
    assert await bench.store.rescue() == Rescued(requeued=1)


async def test_heartbeats_answer_in_order(bench: Bench) -> None:
    """One answer for each lease, in the same order: held, stale, unknown, cancelled."""
    await submit(bench.store, 3)
    first, second, third = (claimed.lease for claimed in await claim(bench.store))
    await bench.store.finish(second, DONE)
    await bench.store.cancel(KEY, third.id)
    unknown = Lease("unknown", 1)
    leases = [third, unknown, second, first]
    beats = await bench.store.heartbeat(leases, LEASE_S)
    assert [beat.lease for beat in beats] == leases
    assert [beat.held for beat in beats] == [True, False, False, True]
    assert [beat.cancelled for beat in beats] == [True, False, False, False]
    assert await bench.store.heartbeat([], LEASE_S) == []


async def test_a_heartbeat_before_the_rescue_saves_the_lease(bench: Bench) -> None:
    """An expired lease that was not given away can still be extended and used."""
    lease = await begin(bench.store)
    await bench.advance(LEASE_S + 1)
    (beat,) = await bench.store.heartbeat([lease], LEASE_S)
    assert beat.held
    assert await bench.store.rescue() == Rescued()
    assert await bench.store.finish(lease, DONE)


# ---------------------------------------------------------------- end of a request


async def test_finish_keeps_the_response(bench: Bench) -> None:
    """A result is replayed as it was given; the status has its logs and its time."""
    lease = await begin(bench.store)
    outcome = JobOutcome.done({"é": [1, 2]}, inference_s=0.5, logs=(LogLine("seen"),))
    assert await bench.store.finish(lease, outcome)
    expected = StoredResponse(JobState.DONE, 200, '{"é":[1,2]}', {})
    assert await bench.store.result(KEY, lease.id) == expected
    status = await bench.store.status(KEY, lease.id)
    assert status
    assert (status.state, status.position, status.inference_s) == (JobState.DONE, None, 0.5)
    assert (status.error, status.error_type) == (None, None)


@pytest.mark.parametrize("truncated", [False, True])
async def test_finish_keeps_what_was_written_and_by_whom(bench: Bench, truncated: bool) -> None:
    """The status says so, before the result is fetched; of the headers it has the model alone."""
    lease = await begin(bench.store)
    waiting = await bench.store.status(KEY, lease.id)
    headers = {"x-florence-model": "demo", "x-other": "1"}
    outcome = JobOutcome.done({}, num_tokens=12, truncated=truncated, headers=headers)
    assert await bench.store.finish(lease, outcome)
    ended = await bench.store.status(KEY, lease.id)
    assert waiting
    assert ended
    assert (waiting.num_tokens, waiting.truncated, waiting.model) == (None, False, "")
    assert (ended.num_tokens, ended.truncated, ended.model) == (12, truncated, "demo")
    assert await bench.store.result(KEY, lease.id) == StoredResponse(
        JobState.DONE, 200, "{}", headers
    )


async def test_finish_keeps_an_error(bench: Bench) -> None:
    """An error is replayed with its status and headers, and named in the status."""
    lease = await begin(bench.store)
    assert await bench.store.finish(lease, FAILED)
    assert await response_of(bench.store, lease.id) == response(FileDownloadError())
    status = await bench.store.status(KEY, lease.id)
    assert status
    assert (status.state, status.error_type) == (JobState.ERROR, "file_download_error")
    assert status.error == FileDownloadError().message
    assert (status.num_tokens, status.truncated, status.model) == (None, False, "")


async def test_an_end_is_for_good(bench: Bench) -> None:
    """An ended job does not change."""
    lease = await begin(bench.store)
    assert await bench.store.finish(lease, DONE)
    before = await rows_of(bench.store, "request")
    assert not await bench.store.finish(lease, FAILED)
    assert await bench.store.retry_or_finish(lease, FAILED) is None
    assert not await bench.store.requeue(lease)
    assert await bench.store.cancel(KEY, lease.id) is Cancellation.ALREADY_COMPLETED
    await bench.advance(LEASE_S + 1)
    assert await bench.store.rescue() == Rescued()
    assert await rows_of(bench.store, "request") == before


async def test_a_worker_without_the_lease_changes_nothing(bench: Bench) -> None:
    """An older lease than the latest, or an unknown one, changes nothing."""
    stale = await begin(bench.store)
    await bench.advance(LEASE_S + 1)
    await bench.store.rescue()
    (claimed,) = await claim(bench.store)
    before = await rows_of(bench.store, "request")
    for lease in (stale, Lease(stale.id, 99), Lease("unknown", 1)):
        assert not await bench.store.finish(lease, DONE)
        assert await bench.store.retry_or_finish(lease, FAILED) is None
        assert not await bench.store.requeue(lease)
        (beat,) = await bench.store.heartbeat([lease], LEASE_S)
        assert not beat.held
    assert await rows_of(bench.store, "request") == before
    assert await bench.store.finish(claimed.lease, DONE)


async def test_a_rescued_lease_is_over_at_once(bench: Bench) -> None:
    """The former worker cannot end a requeued job."""
    stale = await begin(bench.store)
    await bench.advance(LEASE_S + 1)
    await bench.store.rescue()
    assert not await bench.store.finish(stale, DONE)
    assert await state_of(bench.store, stale.id) is JobState.QUEUED


async def test_one_of_many_ends_counts(bench: Bench) -> None:
    """Of several simultaneous ends, one is written."""
    lease = await begin(bench.store, webhook_url=HOOK)
    answers = await asyncio.gather(*(bench.store.finish(lease, DONE) for _ in range(10)))
    assert answers.count(True) == 1
    assert len(await bench.store.webhooks()) == 1
    assert [used.requests for used in await bench.store.usage()] == [1]


async def test_fail_queues_again(bench: Bench) -> None:
    """After a failed attempt, the job is queued again in its place."""
    lease = await begin(bench.store)
    (behind,) = await submit(bench.store)
    assert await bench.store.retry_or_finish(lease, FAILED) is JobState.QUEUED
    assert await response_of(bench.store, lease.id) == (0, "", {})
    assert await claim_ids(bench.store) == [lease.id, behind]


@pytest.mark.parametrize("max_attempts", [1, 3])
async def test_attempts_are_bounded(bench: Bench, max_attempts: int) -> None:
    """The failure of the last attempt ends the job."""
    await submit(bench.store, max_attempts=max_attempts)
    states = []
    while claimed := await claim(bench.store):
        states.append(await bench.store.retry_or_finish(claimed[0].lease, FAILED))
    assert states == [JobState.QUEUED] * (max_attempts - 1) + [JobState.ERROR]


async def test_fail_cancels_what_was_to_be_cancelled(bench: Bench) -> None:
    """A cancelled job is not retried."""
    lease = await begin(bench.store)
    await bench.store.cancel(KEY, lease.id)
    assert await bench.store.retry_or_finish(lease, FAILED) is JobState.CANCELLED
    assert await response_of(bench.store, lease.id) == response(ClientCancelled())


async def test_release_is_no_attempt(bench: Bench) -> None:
    """A requeued job keeps its place and all its attempts."""
    lease = await begin(bench.store, max_attempts=1)
    (behind,) = await submit(bench.store)
    assert await bench.store.requeue(lease)
    assert not await bench.store.finish(lease, DONE)
    first, second = await claim(bench.store)
    assert (first.lease, first.attempt) == (Lease(lease.id, lease.token + 1), 1)
    assert second.lease.id == behind


async def test_release_may_delay(bench: Bench) -> None:
    """A job requeued with a delay waits for its end."""
    lease = await begin(bench.store)
    assert await bench.store.requeue(lease, delay_s=60.0)
    assert await claim_ids(bench.store) == []
    await bench.advance(61.0)
    assert await claim_ids(bench.store) == [lease.id]


async def test_release_cancels_what_was_to_be_cancelled(bench: Bench) -> None:
    """A cancelled job is not requeued."""
    lease = await begin(bench.store)
    await bench.store.cancel(KEY, lease.id)
    assert await bench.store.requeue(lease)
    assert await state_of(bench.store, lease.id) is JobState.CANCELLED


async def test_release_keeps_the_start_timeout(bench: Bench) -> None:
    """A job that never started ends at its start timeout."""
    lease = await begin(bench.store, start_timeout_s=60.0)
    await bench.store.requeue(lease)
    await bench.advance(61.0)
    assert await claim_ids(bench.store) == []
    assert await bench.store.rescue() == Rescued(expired=1)


# ---------------------------------------------------------------------- cancel


async def test_cancels_a_queued_one_at_once(bench: Bench) -> None:
    """No worker runs it, its client gets 499, its place is free."""
    (request_id,) = await submit(bench.store)
    (behind,) = await submit(bench.store)
    assert await bench.store.cancel(KEY, request_id) is Cancellation.REQUESTED
    assert await response_of(bench.store, request_id) == response(ClientCancelled())
    assert await state_of(bench.store, request_id) is JobState.CANCELLED
    assert await bench.store.position(behind) == 0
    assert await claim_ids(bench.store) == [behind]


async def test_cancels_a_running_one_by_a_flag(bench: Bench) -> None:
    """The worker gets the cancel with its next heartbeat, and ends the job."""
    lease = await begin(bench.store)
    assert await bench.store.cancel(KEY, lease.id) is Cancellation.REQUESTED
    assert await bench.store.cancel(KEY, lease.id) is Cancellation.REQUESTED
    assert await state_of(bench.store, lease.id) is JobState.RUNNING
    (beat,) = await bench.store.heartbeat([lease], LEASE_S)
    assert (beat.held, beat.cancelled) == (True, True)
    assert await bench.store.finish(lease, JobOutcome.failed(ClientCancelled()))
    assert await state_of(bench.store, lease.id) is JobState.CANCELLED


async def test_a_cancel_may_come_too_late(bench: Bench) -> None:
    """A worker that finishes first wins."""
    lease = await begin(bench.store)
    await bench.store.cancel(KEY, lease.id)
    assert await bench.store.finish(lease, DONE)
    assert await state_of(bench.store, lease.id) is JobState.DONE


@pytest.mark.parametrize("outcome", [DONE, FAILED])
async def test_cancels_nothing_that_has_ended(bench: Bench, outcome: JobOutcome) -> None:
    """A job that ended, also by a cancel, is completed."""
    lease = await begin(bench.store)
    await bench.store.finish(lease, outcome)
    assert await bench.store.cancel(KEY, lease.id) is Cancellation.ALREADY_COMPLETED
    (cancelled,) = await submit(bench.store)
    await bench.store.cancel(KEY, cancelled)
    assert await bench.store.cancel(KEY, cancelled) is Cancellation.ALREADY_COMPLETED


async def test_a_job_belongs_to_its_key(bench: Bench) -> None:
    """For another key, the job does not exist."""
    (request_id,) = await submit(bench.store)
    for key_id, id_ in (("other", request_id), (KEY, "unknown")):
        assert await bench.store.status(key_id, id_) is None
        assert await bench.store.result(key_id, id_) is None
        assert await bench.store.cancel(key_id, id_) is Cancellation.NOT_FOUND
    assert await state_of(bench.store, request_id) is JobState.QUEUED


# ---------------------------------------------------------------------- rescue


async def test_a_job_with_an_expired_lease_is_requeued(bench: Bench) -> None:
    """When the lease expires, another worker gets the job, in its place, with a new token."""
    lease = await begin(bench.store)
    (behind,) = await submit(bench.store)
    assert await bench.store.rescue() == Rescued()
    await bench.advance(LEASE_S + 1)
    assert await bench.store.rescue() == Rescued(requeued=1)
    first, second = await claim(bench.store)
    assert (first.lease.id, first.attempt, second.lease.id) == (lease.id, 2, behind)
    assert first.lease.token > lease.token + 1


async def test_a_job_that_kills_its_workers_ends_after_its_attempts(bench: Bench) -> None:
    """A job whose workers are lost each time ends after its last attempt."""
    (request_id,) = await submit(bench.store, max_attempts=3)
    rescued = []
    while await claim(bench.store):
        await bench.advance(LEASE_S + 1)
        rescued.append(await bench.store.rescue())
    assert rescued == [Rescued(requeued=1), Rescued(requeued=1), Rescued(failed=1)]
    assert await response_of(bench.store, request_id) == response(RunnerDisconnected())


async def test_a_job_with_an_expired_lease_and_no_attempt_left_ends(bench: Bench) -> None:
    """With one attempt, the loss of the worker is the end."""
    lease = await begin(bench.store, max_attempts=1)
    await bench.advance(LEASE_S + 1)
    assert await bench.store.rescue() == Rescued(failed=1)
    assert await state_of(bench.store, lease.id) is JobState.ERROR


async def test_a_cancelled_job_with_an_expired_lease_ends(bench: Bench) -> None:
    """It is never queued again."""
    lease = await begin(bench.store)
    await bench.store.cancel(KEY, lease.id)
    await bench.advance(LEASE_S + 1)
    assert await bench.store.rescue() == Rescued(cancelled=1)
    assert await response_of(bench.store, lease.id) == response(ClientCancelled())


async def test_a_job_past_its_start_timeout_ends(bench: Bench) -> None:
    """The error names the client's own limit."""
    (request_id,) = await submit(bench.store, start_timeout_s=60.0)
    assert await bench.store.rescue() == Rescued()
    await bench.advance(61.0)
    assert await bench.store.rescue() == Rescued(expired=1)
    assert await response_of(bench.store, request_id) == response(StartTimeout())
    assert await state_of(bench.store, request_id) is JobState.ERROR


async def test_rescues_up_to_a_limit_of_each_kind(bench: Bench) -> None:
    """A rescue is bounded, and the next one goes on."""
    await submit(bench.store, 3)
    await claim(bench.store)
    await submit(bench.store, 3, start_timeout_s=5.0)
    await bench.advance(LEASE_S + 1)
    assert await bench.store.rescue(limit=2) == Rescued(requeued=2, expired=2)
    assert await bench.store.rescue(limit=2) == Rescued(requeued=1, expired=1)
    assert await bench.store.rescue(limit=2) == Rescued()


async def test_rescuers_do_not_meet(bench: Bench) -> None:
    """Simultaneous rescues handle each job once."""
    await submit(bench.store, 10, max_attempts=1, webhook_url=HOOK)
    await claim(bench.store)
    await bench.advance(LEASE_S + 1)
    rescued = await asyncio.gather(*(bench.store.rescue() for _ in range(5)))
    assert sum(each.failed for each in rescued) == 10
    assert len(await bench.store.webhooks()) == 10


# ---------------------------------------------------------------------- forget


async def ended(store: RowStore, outcome: JobOutcome = DONE, **given: Any) -> str:
    """The id of a job that has ended."""
    lease = await begin(store, **given)
    assert await store.finish(lease, outcome)
    return lease.id


async def knows(store: RowStore, request_id: str) -> bool:
    """Whether the store has a job."""
    return await store.status(KEY, request_id) is not None


async def test_a_result_is_kept_for_an_hour(bench: Bench) -> None:
    """A result can be fetched until its retention ends; then the job does not exist."""
    request_id = await ended(bench.store)
    await bench.advance(3590.0)
    await bench.store.prune()
    assert await knows(bench.store, request_id)
    await bench.advance(20.0)
    await bench.store.prune()
    assert not await knows(bench.store, request_id)
    assert await bench.store.result(KEY, request_id) is None
    assert await rows_of(bench.store, "request") == []


@pytest.mark.parametrize(
    ("outcome", "given"),
    [
        (JobOutcome.done("x" * 10 * 1024), {}),
        (JobOutcome.done("é" * 5 * 1024), {}),
        (DONE, {"keeps_input": False}),
    ],
    ids=["large", "large in bytes", "forgotten input"],
)
async def test_some_results_are_kept_for_minutes(
    bench: Bench, outcome: JobOutcome, given: dict[str, Any]
) -> None:
    """A large result, and that of a job without its input, are pruned after six minutes."""
    request_id = await ended(bench.store, outcome, **given)
    await bench.advance(350.0)
    await bench.store.prune()
    assert await knows(bench.store, request_id)
    await bench.advance(20.0)
    await bench.store.prune()
    assert not await knows(bench.store, request_id)


async def test_an_input_is_forgotten_at_the_end(bench: Bench) -> None:
    """The input is deleted when no further attempt can need it."""
    lease = await begin(bench.store, keeps_input=False)
    await bench.store.retry_or_finish(lease, FAILED)
    assert [row["input"] for row in await rows_of(bench.store, "request")] == ['{"n":1}']
    await bench.store.cancel(KEY, lease.id)
    assert [row["input"] for row in await rows_of(bench.store, "request")] == [None]
    await ended(bench.store)
    assert [row["input"] for row in await rows_of(bench.store, "request")] == [None, '{"n":1}']


async def test_prune_names_the_files(bench: Bench) -> None:
    """The files of forgotten jobs are returned once, so that they can be removed."""
    await ended(bench.store, replace(DONE, files=("a.png", "b.png")))
    await ended(bench.store, replace(DONE, files=("c.png",)))
    assert await bench.store.prune() == []
    await bench.advance(3601.0)
    assert sorted(await bench.store.prune()) == ["a.png", "b.png", "c.png"]
    assert await bench.store.prune() == []


async def test_prunes_up_to_a_limit(bench: Bench) -> None:
    """A prune is bounded, and the next one goes on."""
    for name in ("a", "b", "c"):
        await ended(bench.store, replace(DONE, files=(name,)))
    await bench.advance(3601.0)
    assert [len(await bench.store.prune(limit=2)) for _ in range(3)] == [2, 1, 0]


async def test_what_has_not_ended_is_not_forgotten(bench: Bench) -> None:
    """Waiting and running jobs are kept at any age."""
    await begin(bench.store)
    await submit(bench.store)
    await bench.advance(365 * DAY_S)
    await bench.store.prune()
    assert len(await rows_of(bench.store, "request")) == 2


async def test_a_pending_webhook_keeps_its_job(bench: Bench) -> None:
    """A job is kept until its webhook is delivered or given up."""
    request_id = await ended(bench.store, webhook_url=HOOK)
    await bench.advance(3601.0)
    await bench.store.prune()
    assert await knows(bench.store, request_id)
    (hook,) = await bench.store.claim_webhooks(1, LEASE_S)
    await bench.store.record_delivery(hook.id, hook.token, DeliveryResult(status=200))
    await bench.store.prune()
    assert not await knows(bench.store, request_id)
    assert len(await bench.store.webhooks()) == 1


async def test_webhooks_of_old_are_forgotten(bench: Bench) -> None:
    """A webhook is pruned after a week, unless it is pending."""
    await ended(bench.store, webhook_url=HOOK)
    (hook,) = await bench.store.claim_webhooks(1, LEASE_S)
    await bench.store.record_delivery(hook.id, hook.token, DeliveryResult(status=200))
    pending = await ended(bench.store, webhook_url=HOOK)
    await bench.advance(6 * DAY_S)
    await bench.store.prune()
    assert len(await bench.store.webhooks()) == 2
    await bench.advance(2 * DAY_S)
    await bench.store.prune()
    assert [hook.id for hook in await bench.store.webhooks()] == [pending]


async def test_revoked_keys_of_old_are_forgotten(bench: Bench) -> None:
    """A revoked key is listed for a month, one that is not for ever."""
    await limit_key(bench.store, None, "old")
    await limit_key(bench.store, None, "kept")
    await bench.store.revoke_key("old")
    await bench.advance(29 * DAY_S)
    await bench.store.prune()
    assert [key.id for key in await bench.store.keys()] == ["old", "kept"]
    await bench.advance(2 * DAY_S)
    await bench.store.prune()
    assert [key.id for key in await bench.store.keys()] == ["kept"]


# ------------------------------------------------------------------ what clients see


async def test_status_has_the_position(bench: Bench) -> None:
    """The position counts queued jobs ahead; it does not count running and ended ones."""
    ids = await submit(bench.store, 4)
    status = await bench.store.status(KEY, ids[2])
    assert status
    assert (status.id, status.path, status.position) == (ids[2], PATH, 2)
    await claim(bench.store, 1)
    await bench.store.cancel(KEY, ids[1])
    assert await bench.store.position(ids[2]) == 0
    assert await bench.store.position(ids[3]) == 1
    assert await bench.store.position(ids[0]) is None
    assert await bench.store.position("unknown") is None


async def test_a_priority_stands_ahead(bench: Bench) -> None:
    """All jobs of a higher priority are ahead."""
    (low,) = await submit(bench.store, priority=1)
    high = await submit(bench.store, 2, priority=0)
    assert await bench.store.position(low) == 2
    assert await bench.store.position(high[1]) == 1


async def test_what_waits_out_a_delay_is_ahead(bench: Bench) -> None:
    """A job that is tried again keeps its place while it waits."""
    lease = await begin(bench.store)
    (behind,) = await submit(bench.store)
    await bench.store.retry_or_finish(lease, FAILED, delay_s=60.0)
    assert await bench.store.position(behind) == 1


async def test_no_result_before_the_end(bench: Bench) -> None:
    """The response of a job that has not ended has status 0."""
    (request_id,) = await submit(bench.store)
    assert await bench.store.result(KEY, request_id) == StoredResponse(JobState.QUEUED, 0, "", {})
    await claim(bench.store)
    assert await bench.store.result(KEY, request_id) == StoredResponse(JobState.RUNNING, 0, "", {})


@pytest.mark.slow
async def test_positions_are_capped(bench: Bench) -> None:
    """Far behind, all have the same place; the queue's bound is exact there too."""
    submissions = [submission() for _ in range(POSITION_CAP + 50)]
    answers = await asyncio.gather(*map(bench.store.submit, submissions))
    assert max(answer.position for answer in answers) == POSITION_CAP
    (last,) = await submit(bench.store)
    status = await bench.store.status(KEY, last)
    assert status
    assert status.position == await bench.store.position(last) == POSITION_CAP
    assert (await bench.store.submit(submission(priority=1))).position == POSITION_CAP
    assert (await bench.store.submit(submission(priority=-1))).position == 0
    assert (await bench.store.backlog()).queued == 1000
    with pytest.raises(QueueFull):
        await submit(bench.store, max_queue_length=len(submissions) + 3)
    await submit(bench.store, max_queue_length=len(submissions) + 4)


async def test_logs_list_the_steps(bench: Bench) -> None:
    """Lines come in order, none is missing, and each has its time."""
    (request_id,) = await submit(bench.store)
    before = await bench.store.now()
    await bench.advance(LONG)
    (first,) = await claim(bench.store)
    await bench.advance(LONG)
    lines = (LogLine("tried", age_s=4.0),)
    await bench.store.retry_or_finish(first.lease, JobOutcome.failed(GenerationError(), logs=lines))
    (second,) = await claim(bench.store)
    done = JobOutcome.done(
        {}, logs=(LogLine("slow", level="WARN", age_s=1.0), LogLine("é\u2028\n"))
    )
    await bench.store.finish(second.lease, done)
    status = await bench.store.status(KEY, request_id)
    assert status
    assert [(entry.message, entry.level) for entry in status.logs] == [
        ("Received", "INFO"),
        ("Started, attempt 1", "INFO"),
        ("tried", "INFO"),
        (GenerationError().message, "ERROR"),
        ("Queued again", "INFO"),
        ("Started, attempt 2", "INFO"),
        ("slow", "WARN"),
        ("é\u2028\n", "INFO"),
        ("Completed", "INFO"),
    ]
    ages = [entry.timestamp - before for entry in status.logs]
    expected = [0, LONG, 2 * LONG - 4, *[2 * LONG] * 3, 2 * LONG - 1, *[2 * LONG] * 2]
    assert ages == pytest.approx(expected, abs=2)


async def test_logs_list_what_the_store_did(bench: Bench) -> None:
    """Rescues, cancellations and refusals are lines as well."""
    lease = await begin(bench.store)
    await bench.advance(LEASE_S + 1)
    await bench.store.rescue()
    (claimed,) = await claim(bench.store)
    await bench.store.cancel(KEY, lease.id)
    await bench.store.cancel(KEY, lease.id)
    await bench.store.requeue(claimed.lease)
    assert await messages(bench.store, lease.id) == [
        "Received",
        "Started, attempt 1",
        "Queued again",
        "Started, attempt 2",
        "Cancellation requested",
        ClientCancelled().message,
    ]


# --------------------------------------------------------------------- backlog


async def test_backlog_is_what_could_be_claimed(bench: Bench) -> None:
    """It does not count jobs with a delay, past their start timeout, or of a key at its limit."""
    assert await bench.store.backlog() == Backlog(0, 0.0)
    delayed = await begin(bench.store)
    await bench.store.retry_or_finish(delayed, FAILED, delay_s=60.0)
    await submit(bench.store, start_timeout_s=1.0)
    await bench.advance(LONG)
    await limit_key(bench.store, 1, "capped")
    await submit(bench.store, 3, key_id="capped")
    await bench.advance(LONG)
    await submit(bench.store, 2)
    backlog = await bench.store.backlog()
    assert backlog.queued == 3
    assert backlog.oldest_s == pytest.approx(LONG, abs=2)
    assert (await bench.store.backlog(cap=2)).queued == 2
    assert len(await claim(bench.store)) == 3
    assert await bench.store.backlog() == Backlog(0, 0.0)


# -------------------------------------------------------------------- webhooks


@pytest.mark.parametrize("outcome", [DONE, FAILED], ids=["result", "error"])
async def test_an_end_makes_a_webhook(bench: Bench, outcome: JobOutcome) -> None:
    """It is due at once, with the body for the receiver."""
    request_id = await ended(bench.store, outcome, webhook_url=HOOK)
    (hook,) = await bench.store.webhooks()
    assert (hook.id, hook.key_id, hook.url) == (request_id, KEY, HOOK)
    assert hook.body == webhook_body(request_id, outcome)
    assert (hook.state, hook.attempts, hook.token) == (WebhookState.PENDING, 0, 0)
    assert (hook.last_status, hook.last_error) == (None, None)
    assert [due.id for due in await bench.store.claim_webhooks(9, LEASE_S)] == [request_id]


async def test_every_way_to_end_makes_one_webhook(bench: Bench) -> None:
    """Cancelled, not begun in time, lost and failed: one each, and none without a URL."""
    wanted: dict[str, Any] = {"webhook_url": HOOK, "max_attempts": 1}
    (cancelled,) = await submit(bench.store, **wanted)
    await bench.store.cancel(KEY, cancelled)
    lost = await begin(bench.store, **wanted)
    failed = await begin(bench.store, **wanted)
    await bench.store.retry_or_finish(failed, FAILED)
    (late,) = await submit(bench.store, start_timeout_s=5.0, **wanted)
    await bench.advance(LEASE_S + 1)
    await bench.store.rescue()
    await ended(bench.store)
    hooks = await bench.store.webhooks()
    assert sorted(h.id for h in hooks) == sorted([cancelled, lost.id, failed.id, late])
    errors = {h.id: json.loads(h.body)["error"] for h in hooks}
    assert errors[cancelled] == "Invalid status code: 499"
    assert errors[lost.id] == "Invalid status code: 503"
    assert errors[late] == "Invalid status code: 504"


async def test_a_job_belongs_to_its_trace_to_the_end(bench: Bench) -> None:
    """Every claim of it, at any attempt, and its webhook have the trace."""
    lease = await begin(bench.store, webhook_url=HOOK, trace=TRACE)
    await bench.store.retry_or_finish(lease, FAILED)
    (again,) = await claim(bench.store)
    assert (again.attempt, again.trace) == (2, TRACE)
    await bench.store.finish(again.lease, DONE)
    await submit(bench.store, start_timeout_s=5.0, webhook_url=HOOK, trace=TRACE)
    await bench.advance(LONG)
    await bench.store.rescue()
    (queued,) = await submit(bench.store, webhook_url=HOOK, trace=TRACE)
    await bench.store.cancel(KEY, queued)
    assert [hook.trace for hook in await bench.store.claim_webhooks(9, LEASE_S)] == [TRACE] * 3
    assert [hook.trace for hook in await bench.store.webhooks()] == [TRACE] * 3


async def test_no_trace_is_one_too(bench: Bench) -> None:
    """A job that was submitted without one has none."""
    await submit(bench.store, webhook_url=HOOK)
    (claimed,) = await claim(bench.store)
    assert claimed.trace == ""
    await bench.store.finish(claimed.lease, DONE)
    assert [hook.trace for hook in await bench.store.webhooks()] == [""]


async def test_no_webhook_before_the_end(bench: Bench) -> None:
    """Another attempt is no end."""
    lease = await begin(bench.store, webhook_url=HOOK)
    await bench.store.retry_or_finish(lease, FAILED)
    await bench.advance(LEASE_S + 1)
    assert await bench.store.webhooks() == []


async def test_a_webhook_is_one_senders_at_a_time(bench: Bench) -> None:
    """No other sender gets it during the lease; then it is due again, under a new token."""
    await ended(bench.store, webhook_url=HOOK)
    claims = await asyncio.gather(*(bench.store.claim_webhooks(5, 60.0) for _ in range(5)))
    ((first,),) = [each for each in claims if each]
    assert (first.attempts, first.token) == (1, 1)
    await bench.advance(61.0)
    (second,) = await bench.store.claim_webhooks(5, 60.0)
    assert (second.attempts, second.token) == (2, 2)
    assert not await bench.store.record_delivery(first.id, first.token, DeliveryResult(status=200))
    assert await bench.store.record_delivery(second.id, second.token, DeliveryResult(status=200))


async def test_claims_the_webhook_that_waits_longest(bench: Bench) -> None:
    """At most `limit` are claimed, the first due first."""
    ids = []
    for _ in range(3):
        ids.append(await ended(bench.store, webhook_url=HOOK))
        await bench.advance(1.0)
    first = await bench.store.claim_webhooks(2, 60.0)
    assert [hook.id for hook in first] == ids[:2]
    assert [hook.id for hook in await bench.store.claim_webhooks(2, 60.0)] == ids[2:]
    assert await bench.store.claim_webhooks(0, 60.0) == []


async def test_a_delivered_webhook_is_done(bench: Bench) -> None:
    """A delivered webhook is not sent again; its answer is recorded once."""
    await ended(bench.store, webhook_url=HOOK)
    (hook,) = await bench.store.claim_webhooks(1, LEASE_S)
    assert await bench.store.record_delivery(hook.id, hook.token, DeliveryResult(status=204))
    assert not await bench.store.record_delivery(hook.id, hook.token, DeliveryResult(status=204))
    (known,) = await bench.store.webhooks(WebhookState.DELIVERED)
    assert (known.last_status, known.last_error) == (204, None)
    await bench.advance(LEASE_S + 1)
    assert await bench.store.claim_webhooks(1, LEASE_S) == []


async def test_a_failed_delivery_is_tried_again(bench: Bench) -> None:
    """A retry is due at the sender's time; the failure is recorded."""
    await ended(bench.store, webhook_url=HOOK)
    (hook,) = await bench.store.claim_webhooks(1, LEASE_S)
    assert await bench.store.record_delivery(
        hook.id,
        hook.token,
        DeliveryResult(status=503, error="503 Service Unavailable", retry_s=60.0),
    )
    (known,) = await bench.store.webhooks(WebhookState.PENDING)
    assert (known.last_status, known.last_error) == (503, "503 Service Unavailable")
    await bench.advance(50.0)
    assert await bench.store.claim_webhooks(1, LEASE_S) == []
    await bench.advance(11.0)
    (again,) = await bench.store.claim_webhooks(1, LEASE_S)
    assert again.attempts == 2


async def test_a_webhook_is_given_up(bench: Bench) -> None:
    """A failure without a retry is the end."""
    await ended(bench.store, webhook_url=HOOK)
    (hook,) = await bench.store.claim_webhooks(1, LEASE_S)
    assert await bench.store.record_delivery(
        hook.id, hook.token, DeliveryResult(error="no such host")
    )
    (known,) = await bench.store.webhooks(WebhookState.DEAD)
    assert (known.last_status, known.last_error) == (None, "no such host")
    await bench.advance(DAY_S)
    assert await bench.store.claim_webhooks(1, LEASE_S) == []


@pytest.mark.parametrize("error", [None, "no such host"], ids=["delivered", "dead"])
async def test_an_operator_sends_a_webhook_again(bench: Bench, error: str | None) -> None:
    """A settled webhook is due at once, with all its attempts; its old lease is invalid."""
    await ended(bench.store, webhook_url=HOOK)
    (hook,) = await bench.store.claim_webhooks(1, LEASE_S)
    assert not await bench.store.retry_webhook(hook.id)
    await bench.store.record_delivery(hook.id, hook.token, DeliveryResult(error=error))
    assert await bench.store.retry_webhook(hook.id)
    assert not await bench.store.record_delivery(hook.id, hook.token, DeliveryResult(status=200))
    (again,) = await bench.store.claim_webhooks(1, LEASE_S)
    assert (again.id, again.attempts) == (hook.id, 1)
    assert not await bench.store.retry_webhook("unknown")


async def test_lists_webhooks_newest_first(bench: Bench) -> None:
    """All or those in one state, up to a limit."""
    ids = [await ended(bench.store, webhook_url=HOOK) for _ in range(3)]
    (hook,) = await bench.store.claim_webhooks(1, LEASE_S)
    await bench.store.record_delivery(hook.id, hook.token, DeliveryResult(status=200))
    assert [h.id for h in await bench.store.webhooks()] == ids[::-1]
    assert [h.id for h in await bench.store.webhooks(limit=2)] == ids[:0:-1]
    assert [h.id for h in await bench.store.webhooks(WebhookState.PENDING)] == ids[:0:-1]
    assert [h.id for h in await bench.store.webhooks(WebhookState.DELIVERED)] == ids[:1]
    assert await bench.store.webhooks(WebhookState.DEAD) == []


async def test_signing_keys_change_together(bench: Bench) -> None:
    """Signing keys come first; the time is that of the latest change of state."""
    a, b, c = (PublicKey(kid=kid, x=f"x of {kid}", state="next") for kid in "abc")
    assert await bench.store.signing_keys() == []
    await bench.store.put_signing_keys([replace(a, state="active"), b])
    first = await bench.store.now()
    await bench.advance(LONG)
    await bench.store.put_signing_keys([replace(a, state="retired"), replace(b, state="active"), c])
    await bench.advance(LONG)
    await bench.store.put_signing_keys([replace(b, state="active", changed_at=1.0)])
    keys = await bench.store.signing_keys()
    assert [(key.kid, key.x, key.state) for key in keys] == [
        ("b", "x of b", "active"),
        ("c", "x of c", "next"),
        ("a", "x of a", "retired"),
    ]
    assert [key.changed_at for key in keys] == pytest.approx([first + LONG] * 3, abs=2)


# ------------------------------------------------------------------------ keys


async def test_keys_are_found_by_hash(bench: Bench) -> None:
    """A key is known with all its limits from when it was added."""
    now = await bench.store.now()
    given = ApiKey(
        id="a",
        hash="h",
        name="n",
        concurrency=2,
        rate=0.5,
        expires_at=now + 60,
        adapter="invoices",
    )
    await bench.store.add_key(given)
    key = await bench.store.key_by_hash("h")
    assert key
    assert key == replace(given, created_at=key.created_at)
    assert key.created_at == pytest.approx(now, abs=2)
    assert await bench.store.keys() == [key]
    assert await bench.store.key_by_hash("another") is None


async def test_an_expired_key_opens_nothing(bench: Bench) -> None:
    """A revoked key is listed, but not found by its hash."""
    now = await bench.store.now()
    await bench.store.add_key(ApiKey(id="a", hash="h", expires_at=now + 60))
    assert await bench.store.key_by_hash("h")
    await bench.advance(61.0)
    assert await bench.store.key_by_hash("h") is None
    assert [key.id for key in await bench.store.keys()] == ["a"]


async def test_a_revoked_key_opens_nothing(bench: Bench) -> None:
    """It is revoked once."""
    await limit_key(bench.store, None, "a")
    assert await bench.store.revoke_key("a")
    assert await bench.store.key_by_hash("hash of a") is None
    assert not await bench.store.revoke_key("a")
    assert not await bench.store.revoke_key("unknown")
    (key,) = await bench.store.keys()
    assert key.revoked_at == pytest.approx(await bench.store.now(), abs=2)


async def test_keys_are_listed_oldest_first(bench: Bench) -> None:
    """Revoked ones too."""
    for key_id in "bac":
        await limit_key(bench.store, None, key_id)
    await bench.store.revoke_key("a")
    assert [key.id for key in await bench.store.keys()] == ["b", "a", "c"]


@pytest.mark.parametrize("taken", [{"id": "a"}, {"hash": "hash of a"}])
async def test_a_key_is_added_once(bench: Bench, taken: dict[str, str]) -> None:
    """Neither its id nor its hash may be taken."""
    await limit_key(bench.store, None, "a")
    with pytest.raises(ValueError, match="already"):
        await bench.store.add_key(replace(ApiKey(id="b", hash="hash of b"), **taken))  # type: ignore[arg-type]
    assert len(await bench.store.keys()) == 1


async def test_a_key_gets_another_secret(bench: Bench) -> None:
    """The old hash is no longer valid; the key is the same."""
    await limit_key(bench.store, 3, "a")
    assert await bench.store.replace_key_hash("a", "new")
    assert await bench.store.key_by_hash("hash of a") is None
    key = await bench.store.key_by_hash("new")
    assert key
    assert (key.id, key.concurrency) == ("a", 3)
    assert not await bench.store.replace_key_hash("unknown", "newer")
    await bench.store.revoke_key("a")
    assert not await bench.store.replace_key_hash("a", "newer")


async def test_rates_admit_a_burst_and_then_the_rate(bench: Bench) -> None:
    """Up to `burst` at once, then one each 1/rate seconds; a refused one costs nothing."""
    rate, burst = 0.1, 3  # so slow that a real clock does not matter
    waits = [await bench.store.check_rate_limit(KEY, rate, burst) for _ in range(3)]
    assert waits == [0.0, 0.0, 0.0]
    for _ in range(3):
        assert await bench.store.check_rate_limit(KEY, rate, burst) == pytest.approx(10.0, abs=2)
    await bench.advance(10.0)
    assert await bench.store.check_rate_limit(KEY, rate, burst) == 0.0
    assert await bench.store.check_rate_limit(KEY, rate, burst) == pytest.approx(10.0, abs=2)
    await bench.advance(1000.0)
    await bench.store.prune()
    waits = [await bench.store.check_rate_limit(KEY, rate, burst) for _ in range(4)]
    assert waits == [0.0, 0.0, 0.0, pytest.approx(10.0, abs=2)]


async def test_rates_are_each_keys_own(bench: Bench) -> None:
    """One key's calls do not slow another's; simultaneous callers share their key's rate."""
    waits = await asyncio.gather(*(bench.store.check_rate_limit(KEY, 0.01, 5) for _ in range(10)))
    assert waits.count(0.0) == 5
    assert await bench.store.check_rate_limit("other", 0.01, 1) == 0.0


async def test_runs_take_slots(bench: Bench) -> None:
    """No more at a time than the key's limit; a released slot is free."""
    await limit_key(bench.store, 2)
    entered = await asyncio.gather(
        *(bench.store.acquire_slot(KEY, f"run {n}", ttl_s=60.0) for n in range(5))
    )
    assert entered.count(True) == 2
    await bench.store.release_slot(f"run {entered.index(True)}")
    assert await bench.store.acquire_slot(KEY, "later", ttl_s=60.0)
    assert not await bench.store.acquire_slot(KEY, "too late", ttl_s=60.0)
    await bench.store.release_slot("unknown")


async def test_slots_are_released_at_their_timeout(bench: Bench) -> None:
    """The slot of a run whose replica died is released at its timeout."""
    await limit_key(bench.store, 1)
    assert await bench.store.acquire_slot(KEY, "dead", ttl_s=60.0)
    assert not await bench.store.acquire_slot(KEY, "waiting", ttl_s=60.0)
    await bench.advance(61.0)
    assert await bench.store.acquire_slot(KEY, "waiting", ttl_s=60.0)


async def test_a_run_has_one_slot(bench: Bench) -> None:
    """A run that asks again after a lost answer keeps its slot."""
    await limit_key(bench.store, 1)
    assert await bench.store.acquire_slot(KEY, "run", ttl_s=60.0)
    assert await bench.store.acquire_slot(KEY, "run", ttl_s=60.0)
    await bench.store.release_slot("run")
    assert await bench.store.acquire_slot(KEY, "another", ttl_s=60.0)


async def test_running_jobs_leave_fewer_slots_for_runs(bench: Bench) -> None:
    """Running jobs take slots; waiting jobs do not."""
    await limit_key(bench.store, 2)
    await submit(bench.store, 3)
    await claim(bench.store, 1)
    assert await bench.store.acquire_slot(KEY, "first", ttl_s=60.0)
    assert not await bench.store.acquire_slot(KEY, "second", ttl_s=60.0)


async def test_limits_hold_among_runs_and_claimers(bench: Bench) -> None:
    """Jobs and runs together never exceed the limit, in any order."""
    await limit_key(bench.store, 5)
    await submit(bench.store, 10)
    answers = await asyncio.gather(
        *(
            one
            for n in range(10)
            for one in (claim(bench.store, 1), bench.store.acquire_slot(KEY, f"run {n}", 60.0))
        )
    )
    claimed = sum(len(answer) for answer in answers if isinstance(answer, list))
    assert claimed + answers.count(True) == 5


@pytest.mark.parametrize("is_stored", [True, False], ids=["no limit", "not stored"])
async def test_some_keys_have_no_bound(bench: Bench, is_stored: bool) -> None:
    """A key without a limit, or one of the settings, is never refused."""
    if is_stored:
        await limit_key(bench.store, None)
    for n in range(20):
        assert await bench.store.acquire_slot(KEY, f"run {n}", ttl_s=60.0)


async def test_usage_adds_up(bench: Bench) -> None:
    """By day, key and endpoint; from a day on, and of one key, when that is wanted."""
    used = Usage(key_id="a", day="2026-01-02", path="caption", requests=1, images=1, model_s=0.5)
    await bench.store.add_usage([used, used, replace(used, day="2026-01-01")])
    await bench.store.add_usage([replace(used, path="ocr", images=0), replace(used, key_id="b")])
    double = replace(used, requests=2, images=2, model_s=1.0)
    assert await bench.store.usage() == [
        replace(used, day="2026-01-01"),
        double,
        replace(used, path="ocr", images=0),
        replace(used, key_id="b"),
    ]
    assert await bench.store.usage("2026-01-02", "b") == [replace(used, key_id="b")]
    assert await bench.store.usage("2026-01-03") == []


async def test_an_end_is_used(bench: Bench) -> None:
    """Each job counts once when it ends; one with a result is an image."""
    await ended(bench.store, JobOutcome.done({}, model_s=0.25))
    await ended(bench.store, JobOutcome.done({}, model_s=0.5))
    await ended(bench.store, FAILED)
    lease = await begin(bench.store)
    await bench.store.retry_or_finish(lease, FAILED)
    await bench.store.cancel(KEY, lease.id)
    day = time.strftime("%Y-%m-%d", time.gmtime(await bench.store.now()))
    assert await bench.store.usage() == [
        Usage(key_id=KEY, day=day, path=PATH, requests=4, images=2, model_s=0.75)
    ]


# ---------------------------------------------------------------- all the rest


async def test_a_secret_is_the_same_for_everybody(bench: Bench) -> None:
    """The first one to ask decides."""
    secrets = await asyncio.gather(*(bench.store.secret("s", bytes([n])) for n in range(5)))
    assert len(set(secrets)) == 1
    assert await bench.store.secret("s", b"later") == secrets[0]
    assert await bench.store.secret("another", b"\x00\xff") == b"\x00\xff"


async def test_the_clock_is_the_stores(bench: Bench) -> None:
    """It moves on as the store's time does."""
    before = await bench.store.now()
    await bench.advance(100.0)
    assert await bench.store.now() == pytest.approx(before + 100.0, abs=2)


async def fill(bench: Bench) -> None:
    """Put a row of every sort into each table."""
    store = bench.store
    await limit_key(store, 2)
    await store.add_key(ApiKey(id="b", hash="h", name="é", rate=0.5, expires_at=2e9))
    await store.revoke_key("b")
    await ended(
        store,
        JobOutcome.done({"é": 1}, files=("a.png",)),
        webhook_url=HOOK,
        priority=0,
        trace=TRACE,
    )
    await ended(store, FAILED, keeps_input=False, key_id="free", files_ttl_s=5.0)
    (hook,) = await store.claim_webhooks(1, LEASE_S)
    await store.record_delivery(
        hook.id, hook.token, DeliveryResult(status=500, error="500", retry_s=9.0)
    )
    lease = await begin(store, key_id="free", start_timeout_s=50.0)
    await store.retry_or_finish(lease, FAILED, delay_s=5.0)
    await begin(store, key_id="running")
    await store.submit(submission(idempotency_key="once", priority=1, base_url="http://x"))
    await submit(store, 2, priority=1, key_id="free")
    await submit(store, 2, priority=0, key_id="free")
    await store.put_signing_keys([PublicKey(kid="k", x="x", state="active")])
    await store.secret("s", b"\x00\xff")


PAIRS = [(source, target) for source in KINDS for target in KINDS]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=map("-to-".join, PAIRS))
async def test_rows_are_copied(benches: Benches, source: str, target: str) -> None:
    """All rows of every table arrive as they were, and the queue keeps its order."""
    one, other = await benches.open(source), await benches.open(target)
    await fill(one)
    for table in TABLES:
        rows = await rows_of(one.store, table)
        assert rows, table
        assert all(tuple(row) == COLUMNS[table] for row in rows)
        assert json.loads(json.dumps(rows)) == rows
        await other.store.write_rows(table, rows)
        assert await rows_of(other.store, table) == rows
    assert await other.store.keys() == await one.store.keys()
    assert await other.store.webhooks() == await one.store.webhooks()
    assert await other.store.usage() == await one.store.usage()
    assert await other.store.secret("s", b"fresh") == b"\x00\xff"
    late = 50 * 365 * DAY_S  # their clocks may be years apart
    await one.advance(late)
    await other.advance(late)
    await one.store.rescue()
    await other.store.rescue()
    assert await claim_ids(other.store) == await claim_ids(one.store)


async def test_a_copied_queue_is_bounded(benches: Benches, kind: str) -> None:
    """Rows that were written count as those that were submitted."""
    bench = await benches.open(kind)
    await submit(bench.store, 5)
    full = await benches.open(kind, QueueSettings(max_queued=5))
    await full.store.write_rows("request", await rows_of(bench.store, "request"))
    with pytest.raises(QueueFull):
        await submit(full.store)


@pytest.mark.parametrize("table", TABLES)
async def test_a_row_is_written_once(bench: Bench, table: str) -> None:
    """A row that exists is refused, and the rest of its batch is not written."""
    await fill(bench)
    rows = await rows_of(bench.store, table)
    with pytest.raises(ValueError, match="already"):
        await bench.store.write_rows(table, [another(table, rows[0]), rows[-1]])
    assert await rows_of(bench.store, table) == rows


def another(table: str, row: Row) -> Row:
    """A row like `row` that could be added."""
    names = {"api_key": ("id", "hash"), "usage": ("path",), "request": ("id", "idempotency_key")}
    changed = names.get(table, COLUMNS[table][:1])
    return row | {name: f"another {name}" for name in changed}


# ---------------------------------------------------------------------- stats


async def test_stats_count_what_there_is(bench: Bench) -> None:
    """All that wait, also for later; all that run; and every webhook by its state."""
    assert (await bench.store.stats()).queued == 0
    delayed = await begin(bench.store)
    await bench.store.retry_or_finish(delayed, FAILED, delay_s=60.0)
    await submit(bench.store, 3)
    await claim(bench.store, 1)
    stats = await bench.store.stats()
    assert (stats.queued, stats.running) == (3, 1)
    assert stats.webhooks == dict.fromkeys(WebhookState, 0)
    capped = await bench.store.stats(cap=2)
    assert (capped.queued, capped.running) == (2, 1)


async def test_stats_have_the_busiest_keys(bench: Bench) -> None:
    """By running jobs, and by slots of synchronous runs that have not expired."""
    for key_id, number in (("one", 1), ("three", 3), ("two", 2)):
        await submit(bench.store, number, key_id=key_id)
    await claim(bench.store)
    await submit(bench.store, 5, key_id="waits")
    await limit_key(bench.store, 5, "synchronous")
    for number in range(4):
        assert await bench.store.acquire_slot("synchronous", f"run {number}", 60.0)
    busiest = (await bench.store.stats(max_keys=3)).keys
    assert list(busiest.items()) == [("synchronous", 4), ("three", 3), ("two", 2)]
    await bench.advance(61.0)
    assert dict((await bench.store.stats()).keys) == {"three": 3, "two": 2, "one": 1}


async def test_stats_have_pending_webhooks(bench: Bench) -> None:
    """Webhooks that are pending, delivered and dead, and since when the first is due."""
    for _ in range(3):
        await bench.store.finish(await begin(bench.store, webhook_url=HOOK), DONE)
    await bench.advance(7.0)
    stats = await bench.store.stats()
    assert stats.webhooks[WebhookState.PENDING] == 3
    assert stats.overdue_s == pytest.approx(7.0, abs=2)
    first, second, _ = await bench.store.claim_webhooks(10, 60.0)
    assert (await bench.store.stats()).overdue_s == 0.0
    await bench.store.record_delivery(first.id, first.token, DeliveryResult(status=200))
    await bench.store.record_delivery(second.id, second.token, DeliveryResult(error="gone"))
    assert (await bench.store.stats()).webhooks == dict.fromkeys(WebhookState, 1)
