"""What only PostgreSQL has: many processes at once, shared commits, lost connections."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from deployments.errors import IdempotencyConflict, QueueFull, SetupError, StoreUnavailable
from deployments.jobs.api_key import ApiKey
from deployments.jobs.job import Job, JobOutcome, JobState, Lease, Submission, Submitted
from deployments.jobs.postgres import PostgresStore
from deployments.jobs.postgres.database import SESSION, Database, Transaction
from deployments.jobs.postgres.submits import Depth
from deployments.jobs.readiness import Readiness
from deployments.jobs.sql import migrations, statements
from deployments.jobs.worker import Worker
from deployments.settings import QueueSettings
from deployments.telemetry.metrics import PrometheusRecorder
from tests.jobs.life import always_ready
from tests.jobs.postgres import RULES, Bench, bench, schema_of

__all__ = ["bench"]  # the fixture; that of the same name elsewhere is for any kind of store

pytestmark = pytest.mark.anyio

LEASE_S = 15.0
KILL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = $1 AND pid <> pg_backend_pid()
"""


# As that release has it.
END_OF_SCHEMA_2 = """
UPDATE request SET
    state = given.state, owner = NULL, lease_until = NULL, ended_at = $1::float8,
    expires_at = given.expires_at, status = given.status, body = given.body,
    headers = given.headers, error = given.error, error_type = given.error_type,
    inference_s = given.inference_s, files = given.files, logs = logs || lines,
    input = CASE keeps_input WHEN 1 THEN input END
FROM unnest(
    $2::text[], $3::text[], $4::float8[], $5::integer[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::float8[], $11::text[], $12::text[]
) AS given (
    id, state, expires_at, status, body, headers, error, error_type, inference_s, files, lines
)
WHERE request.id = given.id
"""


def given(id_: str, key_id: str = "key", **more: Any) -> Submission:
    """A job."""
    return Submission(id=id_, key_id=key_id, path="region-proposal", input="{}", **more)


async def submit_all(store: PostgresStore, submissions: Sequence[Submission]) -> list[Any]:
    """Submit all at the same time; the result or the error of each."""
    results = (store.submit(submission) for submission in submissions)
    answers: list[Any] = await asyncio.gather(*results, return_exceptions=True)
    return answers


async def fill(store: PostgresStore, key_id: str, num: int, **more: Any) -> list[str]:
    """Submit `num` jobs of a key; their ids."""
    ids = [f"{key_id}-{nth:04}" for nth in range(num)]
    await submit_all(store, [given(id_, key_id, **more) for id_ in ids])
    return ids


async def add_key(store: PostgresStore, key_id: str, concurrency: int | None) -> None:
    """Add a key with a concurrency limit."""
    await store.add_key(ApiKey(id=key_id, hash=f"hash of {key_id}", concurrency=concurrency))


def ids_of(claimed: Sequence[Job]) -> list[str]:
    """The ids of claimed jobs."""
    return [one.lease.id for one in claimed]


# ------------------------------------------------------------------------------ limits


async def test_limits_hold_for_claimers_everywhere(bench: Bench) -> None:
    """Eight claimers and four Ingresses of four processes keep each key's limit."""
    limits = {"three": 3, "two": 2, "one": 1}
    stores = [bench.store, *[await bench.another() for _ in range(3)]]
    for key_id, limit in limits.items():
        await add_key(bench.store, key_id, limit)
    waiting = set()
    for key_id in (*limits, "free"):
        waiting |= set(await fill(bench.store, key_id, 40))
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    finished: list[str] = []
    dice = random.Random(0)

    def start(key_id: str) -> None:
        running[key_id] += 1
        most[key_id] = max(most[key_id], running[key_id])

    async def claim(store: PostgresStore, name: str) -> None:
        while len(finished) < len(waiting):
            claimed = await store.claim(name, dice.randint(1, 6), LEASE_S)
            for one in claimed:
                start(one.key_id)
            await asyncio.sleep(dice.random() / 500)
            for one in claimed:
                running[one.key_id] -= 1
                assert await store.finish(one.lease, JobOutcome.done({}))
                finished.append(one.lease.id)

    async def run(store: PostgresStore, name: str) -> None:
        nth = 0
        while len(finished) < len(waiting):
            nth, key_id = nth + 1, dice.choice(list(limits))
            if await store.acquire_slot(key_id, f"{name}-{nth}", 60.0):
                start(key_id)
                await asyncio.sleep(dice.random() / 500)
                running[key_id] -= 1
                await store.release_slot(f"{name}-{nth}")

    claimers = [claim(store, f"worker-{nth}") for nth in range(2) for store in stores]
    ingresses = [run(store, f"ingress-{nth}") for nth, store in enumerate(stores)]
    await asyncio.gather(*claimers, *ingresses)
    assert sorted(waiting) == sorted(finished)
    assert limits == {key_id: most[key_id] for key_id in limits}
    assert most["free"] > max(limits.values())


@pytest.mark.parametrize("num_capped", [1, 30])
async def test_a_key_at_its_limit_blocks_no_other(bench: Bench, num_capped: int) -> None:
    """A claim finds the jobs of other keys behind any number of jobs of keys at their limit."""
    capped = [f"capped-{nth}" for nth in range(num_capped)]
    for key_id in capped:
        await add_key(bench.store, key_id, 1)
        await fill(bench.store, key_id, 300 // num_capped)
    behind = [*await fill(bench.store, "a", 3), *await fill(bench.store, "z", 2)]
    first = await bench.store.claim("worker", num_capped, LEASE_S)
    assert sorted(capped) == sorted(one.key_id for one in first)
    assert (await bench.store.backlog(cap=10)).queued == len(behind)
    assert behind == ids_of(await bench.store.claim("worker", 10, LEASE_S))
    assert await bench.store.claim("worker", 10, LEASE_S) == []


async def test_past_a_key_at_its_limit_the_order_is_that_of_arrival(bench: Bench) -> None:
    """The query that goes from key to key takes jobs by priority and arrival, like the others."""
    await add_key(bench.store, "capped", 1)
    await fill(bench.store, "capped", 100)
    dice, names = random.Random(0), "abcdefgh"
    arrived = [(dice.randint(0, 1), f"{nth:03}", dice.choice(names)) for nth in range(60)]
    for priority, id_, key_id in arrived:
        await bench.store.submit(given(id_, key_id, priority=priority))
    await add_key(bench.store, "a", 2)
    left = Counter({"a": 2})
    wanted = []
    for _, id_, key_id in sorted(arrived):
        if key_id != "a" or left["a"] > 0:
            wanted.append(id_)
            left[key_id] -= 1
    await bench.store.claim("worker", 1, LEASE_S)
    taken = []
    while claimed := await bench.store.claim("worker", 7, LEASE_S):
        taken += ids_of(claimed)
    assert wanted == taken


# ------------------------------------------------------------------------------- groups


async def test_simultaneous_submits_share_a_commit(bench: Bench) -> None:
    """A hundred submits at a time take a handful of transactions."""
    await fill(bench.store, "key", 100)
    count = "SELECT count(DISTINCT xmin::text) FROM request"
    assert await bench.connection.fetchval(count) < 10


async def test_a_refused_submit_does_not_affect_its_group(bench: Bench) -> None:
    """Each of a group gets its own result: added, repeated, full, in conflict, or not text."""
    await bench.store.submit(given("old", idempotency_key="used"))
    results = await submit_all(
        bench.store,
        [
            given("first"),
            given("repeats", idempotency_key="used"),
            given("conflicts", idempotency_key="used", base_url="same", max_attempts=1),
            given("full", max_queue_length=1),
            given("old"),
            given("second", idempotency_key="fresh"),
            given("twin of second", idempotency_key="fresh"),
            Submission(
                id="other input", key_id="key", path="ocr", input="1", idempotency_key="used"
            ),
        ],
    )
    assert Submitted("first", 1, created=True) == results[0]
    assert [Submitted("old", 0, created=False)] * 3 == [results[1], results[2], results[4]]
    assert isinstance(results[3], QueueFull)
    assert Submitted("second", 2, created=True) == results[5]
    assert Submitted("second", 2, created=False) == results[6]
    assert isinstance(results[7], IdempotencyConflict)


async def test_a_submit_that_cannot_be_written_does_not_affect_its_group(bench: Bench) -> None:
    """PostgreSQL stores no NUL, and UTF-8 no half of a pair; only submits with them fail."""
    bad = [given("nul", base_url="\0"), given("half", base_url="\ud800")]
    results = await submit_all(bench.store, [given("a"), *bad, given("b")])
    assert [one.id for one in results if isinstance(one, Submitted)] == ["a", "b"]
    assert [await bench.store.status("key", id_) for id_ in ("nul", "half")] == [None, None]


async def test_a_cancelled_caller_does_not_affect_its_group(bench: Bench) -> None:
    """A submit of a cancelled caller is written, and so are the others in its group."""
    tasks = [asyncio.create_task(bench.store.submit(given(str(nth)))) for nth in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one.id for one in results if isinstance(one, Submitted)] == ["0", "2"]
    assert await bench.store.position("1") == 1


async def test_simultaneous_finishes_are_kept_apart(bench: Bench) -> None:
    """In a group, a lease that is not the latest ends nothing, and a lease ends a job once."""
    await fill(bench.store, "key", 3, webhook_url="https://receiver.test/")
    claimed = await bench.store.claim("worker", 3, LEASE_S)
    leases = [one.lease for one in claimed]
    stale = Lease(leases[1].id, leases[1].token - 1)
    endings = [JobOutcome.done(nth) for nth in range(4)]
    given_back = [leases[0], stale, leases[2], leases[0]]
    finishes = (bench.store.finish(*pair) for pair in zip(given_back, endings, strict=True))
    assert await asyncio.gather(*finishes) == [True, False, True, False]
    result = await bench.store.result("key", leases[0].id)
    assert result
    assert result.body == "0"
    hooks = await bench.store.webhooks()
    assert [leases[2].id, leases[0].id] == [hook.id for hook in hooks]


# -------------------------------------------------------------------------------- bounds


async def test_simultaneous_submits_fill_the_queue_to_its_bound(bench: Bench) -> None:
    """Four processes that submit at once fill the queue up to its bound and no further."""
    rules = QueueSettings(max_queued=20)
    stores = [await bench.another(rules) for _ in range(4)]
    groups = (
        submit_all(store, [given(f"{nth}-{each}") for each in range(10)])
        for nth, store in enumerate(stores)
    )
    results = [one for group in await asyncio.gather(*groups) for one in group]
    assert sum(isinstance(one, Submitted) for one in results) == 20
    assert sum(isinstance(one, QueueFull) for one in results) == 20
    await stores[0].claim("worker", 1, LEASE_S)
    assert Submitted("next", 19, created=True) == await stores[1].submit(given("next"))


async def test_a_long_queue_is_counted_once_a_second() -> None:
    """Between counts, the depth grows by what this process adds."""
    now, counts = 0.0, iter([5000, 7000])
    depth = Depth(clock=lambda: now)

    async def count() -> int:
        return next(counts)

    assert await depth.read(count, max_age_s=1.0) == 5000
    depth.add(10)
    now = 0.9
    assert await depth.read(count, max_age_s=1.0) == 5010
    now = 1.1
    assert await depth.read(count, max_age_s=1.0) == 7000


# -------------------------------------------------------------------------------- losses


async def test_no_acknowledged_job_is_lost_with_its_connection(bench: Bench) -> None:
    """While every backend is killed again and again, submits succeed or are refused."""
    acknowledged: list[str] = []
    refused = 0
    strike = asyncio.Event()

    async def submit(nth: int) -> None:
        nonlocal refused
        for each in range(60):
            try:
                acknowledged.append((await bench.store.submit(given(f"{nth}-{each}"))).id)
            except StoreUnavailable:
                refused += 1
            if len(acknowledged) % 20 == 0:
                strike.set()

    async def kill() -> None:
        while await strike.wait():
            strike.clear()
            await bench.connection.fetch(KILL, schema_of(bench.url))

    killer = asyncio.create_task(kill())
    await asyncio.gather(*(submit(nth) for nth in range(8)))
    killer.cancel()
    with suppress(asyncio.CancelledError):
        await killer
    kept = {row["id"] for row in await bench.connection.fetch("SELECT id FROM request")}
    assert set(acknowledged) <= kept
    assert acknowledged
    assert refused > 0
    await until_it_answers(bench.store)
    await bench.store.submit(given("afterwards"))


async def until_it_answers(store: PostgresStore) -> None:
    """Ask until a connection stays open; each lost one is noticed once at most."""
    for _ in range(20):
        with suppress(StoreUnavailable):
            await store.now()
            return
    raise AssertionError("the store does not heal")


async def test_a_deadlock_is_retried(bench: Bench) -> None:
    """PostgreSQL ends one of the transactions; it runs again."""
    await fill(bench.store, "key", 2)
    database = await Database(bench.url, 2).open()
    both_have_one = asyncio.Barrier(2)
    tries = 0

    async def lock(first: str, second: str) -> None:
        met = False

        async def work(transaction: Transaction) -> None:
            nonlocal met, tries
            tries += 1
            await transaction.row("locked", first, "key")
            if not met:
                met = True
                await both_have_one.wait()
            await transaction.row("locked", second, "key")

        await database.together(work)

    await asyncio.gather(lock("key-0000", "key-0001"), lock("key-0001", "key-0000"))
    await database.close()
    assert tries > 2


async def test_a_closed_store_says_that_it_is_unavailable(bench: Bench) -> None:
    """A submit that comes too late is refused in a way that its client may repeat."""
    store = await bench.another()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.submit(given("late"))


# ------------------------------------------------------------------------------- opening


async def test_openers_at_once_migrate_once(bench: Bench) -> None:
    """Four processes that find an empty schema together all get the same tables."""
    await bench.connection.execute(f"DROP SCHEMA {schema_of(bench.url)} CASCADE")
    await bench.connection.execute(f"CREATE SCHEMA {schema_of(bench.url)}")
    stores = await asyncio.gather(*(bench.another() for _ in range(4)))
    numbers = await bench.connection.fetch("SELECT number FROM schema_version ORDER BY number")
    assert [number for number, _ in migrations("postgres")] == [row["number"] for row in numbers]
    await stores[0].submit(given("one"))
    assert await stores[3].position("one") == 0


async def test_tables_of_the_first_schema_are_brought_up_to_date(bench: Bench) -> None:
    """What an older release has queued stays, belongs to no trace, and has no count of tokens."""
    schema = schema_of(bench.url)
    await bench.connection.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}")
    await bench.connection.execute(migrations("postgres")[0][1])
    await bench.connection.execute(
        "CREATE TABLE schema_version (number integer PRIMARY KEY);"
        "INSERT INTO schema_version VALUES (1);"
        "INSERT INTO request (id, key_id, path, input, max_attempts, created_at)"
        " VALUES ('old', 'key', 'caption', '{}', 3, 1)"
    )
    store = await bench.another()
    [claimed] = await store.claim("worker", 9, 60.0)
    assert (claimed.lease.id, claimed.trace) == ("old", "")
    status = await store.status("key", "old")
    assert status
    assert (status.num_tokens, status.truncated, status.model) == (None, False, "")


async def test_a_release_of_the_second_schema_goes_on_after_the_third(bench: Bench) -> None:
    """In a rolling update, its statement still ends jobs: they have no count of tokens."""
    schema = schema_of(bench.url)
    await bench.connection.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}")
    for _, sql in migrations("postgres")[:2]:
        await bench.connection.execute(sql)
    await bench.connection.execute(
        "CREATE TABLE schema_version (number integer PRIMARY KEY);"
        "INSERT INTO schema_version VALUES (2);"
        "INSERT INTO request (id, key_id, path, max_attempts, created_at, state)"
        " VALUES ('one', 'key', 'caption', 3, 1, 'running')"
    )
    end = await bench.connection.prepare(END_OF_SCHEMA_2)
    store = await bench.another()
    await end.fetch(
        9.0, ["one"], ["done"], [99.0], [200], ["{}"], ["{}"], [None], [None], [0.5], ["[]"], [""]
    )
    status = await store.status("key", "one")
    assert status
    assert (status.state, status.inference_s) == (JobState.DONE, 0.5)
    assert (status.num_tokens, status.truncated) == (None, False)


ADD_KEY_OF_SCHEMA_3 = (
    "INSERT INTO api_key (id, hash, name, concurrency, rate, created_at, expires_at, revoked_at)"
    " VALUES ($1, $2, $3, $4, $5, store_now(), $6, $7)"
)


async def test_a_release_of_the_third_schema_goes_on_after_the_fourth(bench: Bench) -> None:
    """Its keys, those that were there and those that it still makes, have no adapter."""
    schema = schema_of(bench.url)
    await bench.connection.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}")
    for _, sql in migrations("postgres")[:3]:
        await bench.connection.execute(sql)
    await bench.connection.execute(
        "CREATE TABLE schema_version (number integer PRIMARY KEY);"
        "INSERT INTO schema_version VALUES (3)"
    )
    add = await bench.connection.prepare(ADD_KEY_OF_SCHEMA_3)
    await add.fetch("old", "h", "n", 2, None, None, None)
    store = await bench.another()
    await add.fetch("late", "i", "n", None, 0.5, None, None)
    found = [(key.id, key.concurrency, key.rate, key.adapter) for key in await store.keys()]
    assert found == [("old", 2, None, ""), ("late", None, 0.5, "")]


async def test_a_newer_schema_is_refused(bench: Bench) -> None:
    """A release that is older than the tables does not touch them."""
    await bench.connection.execute("INSERT INTO schema_version VALUES (99)")
    with pytest.raises(SetupError, match=r"newer than this release's.*run the newer release"):
        await bench.another()


async def test_a_schema_that_is_not_there_is_named_as_the_fault(bench: Bench) -> None:
    """Tables are put where the URL says, or nowhere."""
    await bench.connection.execute(f"DROP SCHEMA {schema_of(bench.url)} CASCADE")
    with pytest.raises(SetupError, match="search_path names no schema that exists"):
        await bench.another()
    await bench.connection.execute(f"CREATE SCHEMA {schema_of(bench.url)}")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://user:pass%40word@127.0.0.1:1/florence", "check store.url"),
        ("postgresql://user:pass%40word@no-such-host.invalid/florence", "check store.url"),
        ("postgresql://user:pass@word#/@127.0.0.1:1/florence", "not a valid URL"),
        ("postgresql://user:1/pass@word/@127.0.0.1:1/florence", "not a valid URL"),
        ("postgresql://user:pass@word@127.0.0.1:port/florence", "not a valid URL"),
        ("postgresql://127.0.0.1:1/florence?password=pass@word", "check store.url"),
    ],
)
async def test_what_cannot_be_opened_is_reported_without_the_password(
    url: str, expected: str
) -> None:
    """One line with a remedy."""
    with pytest.raises(SetupError) as raised:
        await PostgresStore(url, RULES, 1).open()
    message = str(raised.value)
    assert expected in message
    assert len(message.splitlines()) == 1
    assert [part for part in ("pass", "word") if part in message] == []


async def test_a_database_that_is_not_there_is_named(postgres: str) -> None:
    """The server's own words, in one line."""
    url = postgres.replace("/postgres?", "/no_such_database?")
    with pytest.raises(SetupError, match='database "no_such_database" does not exist'):
        await PostgresStore(url, RULES, 1).open()


async def test_dispatchers_share_the_work(bench: Bench) -> None:
    """Two workers with stores of their own run each job once, and both have their part."""
    names = await fill(bench.store, "free", 60)
    begun: list[tuple[str, str]] = []

    def worker(store: PostgresStore, name: str) -> Worker:
        async def execute(job: Job) -> JobOutcome:
            begun.append((name, job.id))
            await asyncio.sleep(0.005)
            return JobOutcome.done({})

        rules = QueueSettings(max_running=4, poll_s=0.01)
        return Worker(store, execute, Readiness(always_ready), rules, PrometheusRecorder(), name)

    workers = [worker(bench.store, "one"), worker(await bench.another(), "two")]
    loops = [asyncio.create_task(each.claim_forever()) for each in workers]
    async with asyncio.timeout(20):
        while len(begun) < len(names):  # noqa: ASYNC110, it is looked at from outside
            await asyncio.sleep(0.01)
    for claiming in loops:
        claiming.cancel()
    await asyncio.gather(*(each.drain(5) for each in workers))
    results = [await bench.store.result("free", name) for name in names]

    assert sorted(id_ for _, id_ in begun) == sorted(names)
    assert {name for name, _ in begun} == {"one", "two"}
    assert [result and result.status for result in results] == [200] * len(names)


# ------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(("name", "values"), [("stats", "10000"), ("busiest_keys", "20")])
async def test_metrics_are_read_along_indexes(bench: Bench, name: str, values: str) -> None:
    """The queries run every other second, however long the queue is."""
    await bench.connection.execute(SESSION)
    statement = statements("postgres")[name].removesuffix(";").replace("$1", values)
    plan = await bench.connection.fetch(f"EXPLAIN {statement}")
    lines = [row[0] for row in plan]
    assert [
        line for line in lines if "Seq Scan on request" in line or "Seq Scan on web" in line
    ] == []
    assert any("using request_running on request" in line for line in lines)
