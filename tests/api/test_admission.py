"""The checks before work: order, shutdown, fair share, adaptive limit and retry-after."""

import asyncio
import random
from collections import Counter, deque
from contextlib import ExitStack, suppress

import pytest

from deployments.api.admission import AdaptiveLimit, Admission, RetryAfterEstimate, Shutdown
from deployments.errors import NotReady, Overloaded
from deployments.telemetry.metrics import PrometheusRecorder

from .service import CAPTION, OTHER_KEY, Serve, Service, do

LIMIT = 24
RUN_S = 0.6


class Requests:
    """Requests at an admission, in virtual time; each that is admitted takes RUN_S."""

    def __init__(self) -> None:
        self.now = 0.0
        self.retry_after = RetryAfterEstimate()
        self.retry_after.observe(RUN_S)
        limit = AdaptiveLimit(LIMIT, LIMIT, lambda: self.now)
        self.recorder = PrometheusRecorder()
        self.admission = Admission(limit, self.recorder, self.retry_after, lambda: self.now)
        self.admitted: Counter[str] = Counter()
        self._running: list[tuple[float, ExitStack]] = []

    def send(self, key: str) -> float:
        """Send one of `key`; its Retry-After in seconds, 0 when it is admitted."""
        running = ExitStack()
        try:
            running.enter_context(self.admission.admit(key))
        except Overloaded as refused:
            return refused.retry_after_s
        self.admitted[key] += 1
        self._running.append((self.now + RUN_S, running))
        return 0.0

    def load(self, rates: dict[str, float], seconds: float) -> None:
        """Send at these rates, per second, at random times."""
        rng, end, total = random.Random(1), self.now + seconds, sum(rates.values())
        while self.now < end:
            self.now += rng.expovariate(total)
            while self._running and self._running[0][0] <= self.now:
                self._running.pop(0)[1].close()
            self.send(rng.choices(list(rates), list(rates.values()))[0])


def fairness(numbers: list[int]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has all."""
    return sum(numbers) ** 2 / (len(numbers) * sum(number**2 for number in numbers))


@pytest.fixture
def requests() -> Requests:
    """An admission without a running request."""
    return Requests()


def test_a_single_key_has_the_whole_limit(requests: Requests) -> None:
    """And no more."""
    assert [requests.send("only") for _ in range(LIMIT)] == [0.0] * LIMIT
    assert requests.send("only") > 0
    text = requests.recorder.exposition().decode()
    assert f"florence_ingress_places {LIMIT}.0" in text
    assert 'florence_ingress_key_refused_total{key="only",limit="share"} 1.0' in text


def test_under_overload_all_keys_get_the_same(requests: Requests) -> None:
    """However much more one asks than the others, when each asks for more than its share."""
    requests.load({"greedy": 200.0, "busy": 40.0, "modest": 20.0}, 60)

    assert fairness(list(requests.admitted.values())) > 0.95
    assert sum(requests.admitted.values()) > 0.9 * 60 * LIMIT / RUN_S


def test_a_key_that_asks_for_less_than_its_share_gets_it(requests: Requests) -> None:
    """The others have the rest; little is left unused."""
    requests.load({"greedy": 200.0, "modest": 4.0}, 60)

    assert requests.admitted["modest"] > 0.9 * 4 * 60
    assert sum(requests.admitted.values()) > 0.7 * 60 * LIMIT / RUN_S


def test_a_key_that_has_left_has_no_share(requests: Requests) -> None:
    """Its share is free for the others a moment later."""
    requests.load({"here": 200.0, "leaving": 200.0}, 10)
    before = requests.admitted["here"]
    requests.load({"here": 200.0}, 30)

    assert requests.admitted["here"] - before > 0.9 * 30 * LIMIT / RUN_S


def test_retry_after_grows_with_the_number_refused(requests: Requests) -> None:
    """Each is asked to come when there should be room, after all those refused before it."""
    for _ in range(LIMIT):
        requests.send("key")
    waits = [requests.send("key") for _ in range(200)]

    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(RUN_S / LIMIT)
    assert waits[-1] == pytest.approx(200 * RUN_S / LIMIT)
    requests.now += 2
    assert requests.send("key") == pytest.approx(RUN_S / LIMIT)


def test_a_request_that_fails_runs_no_more(requests: Requests) -> None:
    """Whatever it raises, there is room again."""
    for _ in range(2 * LIMIT):
        with suppress(ZeroDivisionError), requests.admission.admit("key"):
            raise ZeroDivisionError

    assert requests.admission.num_running == 0


MODEL_S = 0.5
LEAST = 4


class Overload:
    """A model that takes `batch` requests at a time, for MODEL_S, and requests that wait for it.

    There are always as many as the adaptive limit allows.
    """

    def __init__(self, most: int, batch: int) -> None:
        self.now = 0.0
        self.batch = batch
        self.limit = AdaptiveLimit(most, LEAST, lambda: self.now)
        self._waiting: deque[float] = deque()

    def step(self) -> None:
        """Admit up to the limit, and let the model work on one batch."""
        while len(self._waiting) < self.limit.value:
            self._waiting.append(self.now)
        num_running = len(self._waiting)
        batch = [self._waiting.popleft() for _ in range(min(self.batch, num_running))]
        begun, self.now = self.now, self.now + MODEL_S
        for number, came in enumerate(batch):
            self.limit.observe(num_running - number, begun - came, MODEL_S)

    def steps(self, number: int) -> list[int]:
        """The limit after each of `number` steps."""
        limits = []
        for _ in range(number):
            self.step()
            limits.append(self.limit.value)
        return limits


def test_it_begins_wide() -> None:
    """No request is refused before a long wait was measured."""
    assert AdaptiveLimit(256, LEAST).value == 256


@pytest.mark.parametrize("batch", [8, 32])
def test_under_overload_a_request_waits_for_about_two_batches(batch: int) -> None:
    """The limit settles where twice as many wait as are in the model."""
    overload = Overload(256, batch)
    overload.steps(100)
    limits = overload.steps(200)

    assert batch * 2 <= sum(limits) / len(limits) <= batch * 4
    assert max(limits) <= batch * 5


def test_it_follows_replicas_that_come() -> None:
    """With twice the replicas it admits twice as many, before long."""
    overload = Overload(256, 8)
    overload.steps(200)
    overload.batch = 16
    overload.steps(200)
    limits = overload.steps(200)

    assert sum(limits) / len(limits) >= 16 * 2


def test_it_does_not_shrink_below_a_few() -> None:
    """A few always run, to notice when it gets better; and it never exceeds its maximum."""
    overload = Overload(256, 1)
    overload.steps(500)
    assert overload.limit.value >= LEAST
    assert AdaptiveLimit(2, LEAST).value == 2


def test_without_load_it_stays_as_it_is() -> None:
    """Requests that do not wait say nothing about how many more there could be."""
    overload = Overload(256, 8)
    overload.steps(200)
    limit = overload.limit.value
    for _ in range(1000):
        overload.limit.observe(1, 0.0, MODEL_S)

    assert overload.limit.value == limit


def test_one_long_wait_changes_nothing() -> None:
    """It is no overload."""
    limit = AdaptiveLimit(64, LEAST)
    limit.observe(10, 3.0, MODEL_S)

    assert limit.value == 64


def test_nothing_is_known_at_first() -> None:
    """Before any request has ended, Retry-After is the shortest."""
    assert RetryAfterEstimate().seconds(4) == 0.0
    assert Overloaded.after(0.0).headers()["Retry-After"] == "1"


def test_requests_end_one_after_another() -> None:
    """Of 4 requests that take 8 seconds, one ends every 2 seconds."""
    retry_after = RetryAfterEstimate()
    retry_after.observe(8.0)

    assert retry_after.seconds(4) == 2.0


def test_the_average_follows_the_latest_requests() -> None:
    """A single slow request moves it a little, many move it all the way."""
    retry_after = RetryAfterEstimate()
    retry_after.observe(1.0)
    retry_after.observe(11.0)
    assert retry_after.seconds(1) == pytest.approx(2.0)
    for _ in range(100):
        retry_after.observe(11.0)

    assert retry_after.seconds(1) == pytest.approx(11.0, abs=0.01)


def test_retry_after_is_in_whole_seconds() -> None:
    """It is when there should be room."""
    retry_after = RetryAfterEstimate()
    retry_after.observe(7.0)
    admission = Admission(AdaptiveLimit(2, 2), PrometheusRecorder(), retry_after)

    with (
        admission.admit("key"),
        admission.admit("key"),
        pytest.raises(Overloaded) as refused,
        admission.admit("key"),
    ):
        raise AssertionError("admitted")
    assert refused.value.headers()["Retry-After"] == "4"


def test_the_checks_have_an_order(serve: Serve) -> None:
    """A request that would fail several of them fails the first one."""
    service = serve(keys={"hashes": [], "rate_burst": 1})
    service.add_key(concurrency=1, rate=0.001)
    service.post({"image_url": "u"}, f"/queue{CAPTION}", Authorization=f"Key {OTHER_KEY}")
    service.claim()  # now the rate limit and the concurrency limit are reached

    def send(key: str = OTHER_KEY) -> tuple[int, str]:
        response = service.post_bytes(b"no JSON", Authorization=f"Key {key}")
        return response.status_code, response.json()["error_type"]

    assert send() == (429, "rate_limit_exceeded")
    assert send("wrong:key") == (401, "unauthorized")
    do(service.shutdown.drain(0))
    assert send("wrong:key") == (503, "runner_scheduling_failure")
    assert service.runs == []


def test_a_body_is_read_before_a_slot_is_taken(serve: Serve) -> None:
    """A key without a free slot hears first that its body is wrong, then that it has to wait."""
    service = serve(keys={"hashes": []})
    service.add_key(concurrency=1)
    service.post({"image_url": "u"}, f"/queue{CAPTION}", Authorization=f"Key {OTHER_KEY}")
    service.claim()

    wrong = service.post_bytes(b"no JSON", Authorization=f"Key {OTHER_KEY}")
    right = service.post_bytes(b'{"image_url": "u"}', Authorization=f"Key {OTHER_KEY}")

    assert wrong.status_code == 422
    assert (right.status_code, right.json()["error_type"]) == (429, "concurrent_requests_limit")


@pytest.mark.anyio
async def test_a_shutdown_ends_when_the_last_request_has_ended() -> None:
    """A request that has begun is waited for."""
    shutdown = Shutdown()
    with shutdown.postponed(), shutdown.postponed():
        drained = asyncio.create_task(shutdown.drain(60))
        await asyncio.sleep(0)
        assert not drained.done()
    await drained


@pytest.mark.anyio
async def test_a_shutdown_does_not_wait_for_ever() -> None:
    """A request that takes too long is given up."""
    shutdown = Shutdown()
    with shutdown.postponed():
        await shutdown.drain(0.01)


@pytest.mark.anyio
async def test_no_request_begins_after_a_shutdown() -> None:
    """It is refused at once."""
    shutdown = Shutdown()
    await shutdown.drain(0)
    with pytest.raises(NotReady), shutdown.postponed():
        pytest.fail("it began")


def test_after_a_shutdown_runs_and_submits_are_refused_and_all_else_is_answered(
    service: Service,
) -> None:
    """Each 503 says that it is worth another try."""
    job = service.submit().json()
    do(service.shutdown.drain(0))
    refused = [service.post({"image_url": "u"}), service.submit()]
    status = service.get(f"/queue/fal-ai/florence-2-large/requests/{job['request_id']}/status")

    assert [answer.status_code for answer in refused] == [503, 503]
    assert {answer.headers["x-fal-needs-retry"] for answer in refused} == {"1"}
    assert status.status_code == 202
