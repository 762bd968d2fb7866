"""The worker against a real store: what it claims, keeps, gives up and persists."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from deployments.errors import (
    FileDownloadError,
    Overloaded,
    RunnerDisconnected,
    ServiceError,
    StoreUnavailable,
)
from deployments.jobs import worker as module
from deployments.jobs.job import (
    Cancellation,
    Heartbeat,
    Job,
    JobOutcome,
    JobState,
    Lease,
    StoredResponse,
    Submission,
)
from deployments.jobs.maintenance import every
from deployments.jobs.readiness import Readiness
from deployments.jobs.worker import WakeUp, Worker
from deployments.settings import QueueSettings
from deployments.telemetry.metrics import PrometheusRecorder
from tests.jobs.life import always_ready
from tests.jobs.memory import MemoryStore

pytestmark = pytest.mark.anyio

KEY = "key"
RULES = QueueSettings(beat_s=0.01, poll_s=0.01, retry_delay_s=0.0, max_running=4)
DONE = JobOutcome.done({"results": "a red circle"})


class Bench:
    """A worker at a store; `plans` gives the outcome of each attempt at a job."""

    def __init__(self, store: MemoryStore, readiness: Readiness | None = None) -> None:
        self.store = store
        self.readiness = readiness or Readiness(always_ready)
        self.plans: dict[str, list[ServiceError | Exception | None]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.started: list[str] = []
        self.running: set[str] = set()
        self.most_during_a_retry = 0
        self.recorder = PrometheusRecorder()
        self.worker = Worker(
            store, self.execute, self.readiness, RULES, self.recorder, name="worker"
        )

    async def submit(self, name: str, *plan: ServiceError | Exception | None) -> str:
        """Submit a job whose attempts follow `plan`, then succeed."""
        self.plans[name] = list(plan)
        await self.store.submit(Submission(id=name, key_id=KEY, path="caption", input="{}"))
        return name

    def hold(self, name: str) -> asyncio.Event:
        """Lets the job continue when it is set."""
        self.held[name] = asyncio.Event()
        return self.held[name]

    async def execute(self, job: Job) -> JobOutcome:
        """One attempt."""
        name = job.id
        self.started.append(name)
        self.running.add(name)
        if job.attempt > 1:
            self.most_during_a_retry = max(self.most_during_a_retry, len(self.running))
        try:
            if name in self.held:
                await self.held[name].wait()
            await asyncio.sleep(0)
            plan = self.plans.get(name) or [None]
            error = plan.pop(0)
            if error:
                raise error
            return DONE
        finally:
            self.running.discard(name)

    async def result(self, name: str) -> StoredResponse:
        """The result, once there is one."""
        async with asyncio.timeout(5):
            while True:
                result = await self.store.result(KEY, name)
                assert result
                if result.state.is_terminal:
                    return result
                await asyncio.sleep(0.002)

    async def result_now(self, name: str) -> StoredResponse:
        """The result as it stands."""
        result = await self.store.result(KEY, name)
        assert result
        return result

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds."""
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110, it is looked at from outside
                await asyncio.sleep(0.002)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The worker's loops run inside the block."""
        loops = [
            asyncio.create_task(self.worker.claim_forever()),
            asyncio.create_task(every(RULES.beat_s, self.worker.heartbeat)),
        ]
        try:
            yield
        finally:
            loops[0].cancel()
            await self.worker.drain(1)
            loops[1].cancel()
            outcomes = await asyncio.gather(*loops, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2


@pytest.fixture
def bench() -> Bench:
    """A worker at an empty store."""
    return Bench(MemoryStore(RULES))


async def test_jobs_are_done(bench: Bench) -> None:
    """Whatever is queued, before or after the start, ends with its result."""
    await bench.submit("before")
    async with bench.working():
        await bench.submit("after")
        bench.worker.wake()
        results = [await bench.result(name) for name in ("before", "after")]

    assert [(result.status, result.body) for result in results] == [(200, DONE.body)] * 2
    assert bench.started == ["before", "after"]


async def test_no_more_are_claimed_than_max_running(bench: Bench) -> None:
    """The rest waits in the queue, where other workers can take it."""
    events = [bench.hold(await bench.submit(f"r{number}")) for number in range(6)]
    async with bench.working():
        await bench.until(lambda: len(bench.started) == RULES.max_running)
        await asyncio.sleep(3 * RULES.poll_s)
        waiting = (await bench.store.backlog()).queued
        for event in events:
            event.set()
        for number in range(6):
            await bench.result(f"r{number}")

    assert waiting == 2


async def test_a_clients_fault_is_final(bench: Bench) -> None:
    """What would fail again is not tried again, and is replayed as the client would see it."""
    error = FileDownloadError("Failed to download the file: the server answered 404.")
    await bench.submit("bad", error)
    async with bench.working():
        result = await bench.result("bad")

    assert (result.state, result.status) == (JobState.ERROR, 422)
    assert result.headers["X-Fal-Error-Type"] == "file_download_error"
    assert bench.started == ["bad"]


async def test_a_dead_replica_costs_an_attempt(bench: Bench) -> None:
    """Two deaths are survived, under one id."""
    await bench.submit("unlucky", RunnerDisconnected(), RunnerDisconnected())
    async with bench.working():
        result = await bench.result("unlucky")

    assert result.status == 200
    assert bench.started == ["unlucky"] * 3


async def test_poison_ends_after_three_attempts(bench: Bench) -> None:
    """A job that kills its replica is an error then."""
    await bench.submit("poison", *(RunnerDisconnected() for _ in range(5)))
    async with bench.working():
        result = await bench.result("poison")

    assert (result.state, result.status) == (JobState.ERROR, 503)
    assert bench.started == ["poison"] * 3


async def test_retries_run_one_by_one(bench: Bench) -> None:
    """They never run together, so poison takes no other retry along."""
    names = [await bench.submit(f"r{number}", RunnerDisconnected()) for number in range(4)]
    async with bench.working():
        for name in names:
            assert (await bench.result(name)).status == 200

    assert bench.most_during_a_retry == 1


async def test_a_full_pipeline_costs_no_attempt(bench: Bench) -> None:
    """A job that the pipeline refused is requeued, as often as it takes."""
    await bench.submit("refused", *(Overloaded.after(0.0) for _ in range(5)))
    async with bench.working():
        result = await bench.result("refused")

    assert result.status == 200
    assert bench.started == ["refused"] * 6


async def test_an_unforeseen_error_is_ours(bench: Bench) -> None:
    """It is a 500 that leaks nothing."""
    await bench.submit("odd", ZeroDivisionError("secret"))
    async with bench.working():
        result = await bench.result("odd")

    assert result.status == 500
    assert "secret" not in result.body


async def test_a_cancel_reaches_running_work(bench: Bench) -> None:
    """The work stops within a heartbeat, and the job ends as cancelled."""
    bench.hold(await bench.submit("unwanted"))
    async with bench.working():
        await bench.until(lambda: bench.running == {"unwanted"})
        assert await bench.store.cancel(KEY, "unwanted") is Cancellation.REQUESTED
        result = await bench.result("unwanted")
        await bench.until(lambda: not bench.running)

    assert (result.state, result.status) == (JobState.CANCELLED, 499)


async def test_running_jobs_are_requeued_at_the_end(bench: Bench) -> None:
    """A worker that is stopped waits a little, then others may take over at once."""
    bench.hold(await bench.submit("long"))
    claiming = asyncio.create_task(bench.worker.claim_forever())
    await bench.until(lambda: bench.running == {"long"})
    claiming.cancel()
    await bench.worker.drain(0.01)

    [job] = await bench.store.claim("other", 1, 10)
    assert (job.id, job.attempt) == ("long", 1)
    assert b'florence_dispatcher_retries_total{cause="stopped"} 1.0' in bench.recorder.exposition()


class Slow(MemoryStore):
    """A store whose claims have their effect, and then take their time to say so."""

    def __init__(self) -> None:
        super().__init__(RULES)
        self.claimed = asyncio.Event()
        self.answers = asyncio.Event()

    async def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        """See JobStore."""
        claimed = await super().claim(owner, limit, lease_s)
        self.claimed.set()
        await self.answers.wait()
        return claimed


async def test_a_job_that_is_claimed_at_the_end_is_requeued_too() -> None:
    """Else it would wait until the lease of the stopped worker expires."""
    store = Slow()
    bench = Bench(store)
    bench.hold(await bench.submit("just claimed"))
    claiming = asyncio.create_task(bench.worker.claim_forever())
    await store.claimed.wait()
    claiming.cancel()
    draining = asyncio.create_task(bench.worker.drain(0.01))
    await asyncio.sleep(0)
    store.answers.set()
    await draining

    [job] = await store.claim("other", 1, 10)
    assert (job.id, job.attempt) == ("just claimed", 1)


async def test_an_expired_lease_stops_the_execution() -> None:
    """Work on a job of another worker is neither continued nor persisted."""
    now = 1000.0
    store = MemoryStore(RULES, lambda: now)
    bench = Bench(store)
    go_on = bench.hold(await bench.submit("slow"))
    claiming = asyncio.create_task(bench.worker.claim_forever())
    await bench.until(lambda: bench.running == {"slow"})
    claiming.cancel()
    now += RULES.lease_s + 1
    await store.rescue()
    now += 60
    [other] = await store.claim("other", 1, 10)
    beating = asyncio.create_task(every(RULES.beat_s, bench.worker.heartbeat))
    await bench.until(lambda: not bench.running)
    beating.cancel()
    go_on.set()
    await bench.worker.drain(1)

    assert (await bench.result_now("slow")).state is JobState.RUNNING
    assert await store.finish(other.lease, DONE)


class Flaky(MemoryStore):
    """A store that cannot be reached now and then."""

    def __init__(self, rules: QueueSettings) -> None:
        super().__init__(rules)
        self.failures = {"claim": 1, "heartbeat": 1, "finish": 2}

    async def claim(self, owner: str, limit: int, lease_s: float) -> list[Job]:
        self.stumble("claim")
        return await super().claim(owner, limit, lease_s)

    async def heartbeat(self, leases: Sequence[Lease], lease_s: float) -> list[Heartbeat]:
        self.stumble("heartbeat")
        return await super().heartbeat(leases, lease_s)

    async def finish(self, lease: Lease, outcome: JobOutcome) -> bool:
        self.stumble("finish")
        return await super().finish(lease, outcome)

    def stumble(self, method: str) -> None:
        """Fail as often as is planned."""
        if self.failures[method]:
            self.failures[method] -= 1
            raise StoreUnavailable


async def test_a_store_that_is_unavailable_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops go on, and a result is stored later."""
    monkeypatch.setattr(module, "STORE_RETRY_S", 0.01)
    store = Flaky(RULES)
    bench = Bench(store)
    go_on = bench.hold(await bench.submit("kept"))
    async with bench.working():
        await bench.until(lambda: store.failures["heartbeat"] == 0)
        go_on.set()
        result = await bench.result("kept")

    assert result.status == 200
    assert store.failures == {"claim": 0, "heartbeat": 0, "finish": 0}
    assert bench.started == ["kept"]


async def test_two_workers_share_the_work() -> None:
    """Each job is done once, by either worker."""
    store = MemoryStore(RULES)
    first, second = Bench(store), Bench(store)
    names = [await first.submit(f"r{number}") for number in range(40)]
    async with first.working(), second.working():
        for name in names:
            assert (await first.result(name)).status == 200

    assert sorted(first.started + second.started) == sorted(names)


async def test_jobs_stay_queued_until_the_model_has_a_replica() -> None:
    """They are not tried and failed; and with an empty queue no replica is asked for."""
    has_replica = asyncio.Event()
    num_checks = 0

    async def check() -> bool:
        nonlocal num_checks
        num_checks += 1
        await has_replica.wait()
        return True

    bench = Bench(MemoryStore(RULES), Readiness(check))
    async with bench.working():
        await asyncio.sleep(3 * RULES.poll_s)
        assert num_checks == 0
        name = await bench.submit("a")
        await bench.until(lambda: num_checks == 1)
        assert (await bench.result_now(name)).state is JobState.QUEUED
        has_replica.set()
        assert (await bench.result(name)).status == 200


async def test_a_worker_knows_how_much_it_has(bench: Bench) -> None:
    """The policy that counts workers asks."""
    go = bench.hold(await bench.submit("a"))
    async with bench.working():
        await bench.until(lambda: bench.worker.num_running == 1)
        go.set()
        await bench.until(lambda: bench.worker.num_running == 0)


async def test_attempts_to_be_made_again_are_counted_by_cause(bench: Bench) -> None:
    """What the work said, when it was one of those errors that may not come again."""
    await bench.submit("a", RunnerDisconnected(), Overloaded.after(0.0))
    await bench.submit("b", FileDownloadError("gone"))
    async with bench.working():
        await bench.result("a")
        await bench.result("b")
    text = bench.recorder.exposition().decode()
    assert 'florence_dispatcher_retries_total{cause="runner_disconnected"} 1.0' in text
    assert 'florence_dispatcher_retries_total{cause="overloaded"} 1.0' in text
    assert text.count("florence_dispatcher_retries_total{") == 2
    assert "florence_dispatcher_wait_seconds_count 4.0" in text


# ---- the wake-up of workers in other processes


class Wakings:
    """Counts the calls of a WakeUp; each call runs `during`."""

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.num = 0
        self.during = during
        self.wake_up = WakeUp(self.wake)

    async def wake(self) -> None:
        self.num += 1
        self.during()

    async def end(self) -> None:
        """Wait until all calls are made."""
        task = self.wake_up._task
        assert task
        async with asyncio.timeout(5):
            await task


@pytest.fixture
def quick_wake_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAKE_UP_INTERVAL_S", 0.001)


@pytest.mark.usefixtures("quick_wake_ups")
async def test_wake_ups_of_one_moment_become_one_call() -> None:
    """A thousand submits do not cost a thousand remote calls."""
    wakings = Wakings()
    for _ in range(1000):
        wakings.wake_up()
    await wakings.end()

    assert wakings.num == 1


@pytest.mark.usefixtures("quick_wake_ups")
async def test_a_change_during_a_call_makes_another_call() -> None:
    """The first call had begun before it."""

    def change() -> None:
        if wakings.num == 1:
            wakings.wake_up()

    wakings = Wakings(change)
    wakings.wake_up()
    await wakings.end()

    assert wakings.num == 2


@pytest.mark.usefixtures("quick_wake_ups")
async def test_a_wake_up_that_fails_is_ignored() -> None:
    """The worker polls as well; the next call is made all the same."""

    def fail() -> None:
        raise ConnectionError

    wakings = Wakings(fail)
    for _ in range(2):
        wakings.wake_up()
        await wakings.end()

    assert wakings.num == 2
