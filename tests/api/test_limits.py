"""The checks before work: the fair share, the adaptive limit and the retry-after estimate."""

import random
from collections import Counter, deque
from contextlib import ExitStack, suppress

import pytest

from deployments.api.limits import AdaptiveLimit, Admission, RetryAfterEstimate
from deployments.errors import Overloaded
from deployments.telemetry.metrics import PrometheusRecorder

PLACES = 24
RUN_S = 0.6


class Door:
    """An admission in virtual time, with runs that take RUN_S each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.retry_after = RetryAfterEstimate()
        self.retry_after.observe(RUN_S)
        limit = AdaptiveLimit(PLACES, PLACES, lambda: self.now)
        self.recorder = PrometheusRecorder()
        self.admission = Admission(limit, self.recorder, self.retry_after, lambda: self.now)
        self.admitted: Counter[str] = Counter()
        self._inside: list[tuple[float, ExitStack]] = []

    def come(self, key: str) -> float:
        """A run of `key` comes; the seconds it is told to wait, 0 when it is let in."""
        place = ExitStack()
        try:
            place.enter_context(self.admission.admit(key))
        except Overloaded as refused:
            return refused.retry_after_s
        self.admitted[key] += 1
        self._inside.append((self.now + RUN_S, place))
        return 0.0

    def load(self, rates: dict[str, float], seconds: float) -> None:
        """Runs come at these rates, a second, at random."""
        rng, end, total = random.Random(1), self.now + seconds, sum(rates.values())
        while self.now < end:
            self.now += rng.expovariate(total)
            while self._inside and self._inside[0][0] <= self.now:
                self._inside.pop(0)[1].close()
            self.come(rng.choices(list(rates), list(rates.values()))[0])


def fairness(numbers: list[int]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has all."""
    return sum(numbers) ** 2 / (len(numbers) * sum(number**2 for number in numbers))


@pytest.fixture
def door() -> Door:
    """An admission with no run inside."""
    return Door()


def test_a_single_key_has_all_places(door: Door) -> None:
    """And no more."""
    assert [door.come("only") for _ in range(PLACES)] == [0.0] * PLACES
    assert door.come("only") > 0
    text = door.recorder.exposition().decode()
    assert f"florence_ingress_places {PLACES}.0" in text
    assert 'florence_ingress_key_refused_total{key="only",limit="share"} 1.0' in text


def test_under_overload_all_keys_get_the_same(door: Door) -> None:
    """However much more one asks than the others, when each asks for more than its share."""
    door.load({"greedy": 200.0, "busy": 40.0, "modest": 20.0}, 60)

    assert fairness(list(door.admitted.values())) > 0.95
    assert sum(door.admitted.values()) > 0.9 * 60 * PLACES / RUN_S


def test_who_asks_for_less_than_its_share_gets_what_it_asks(door: Door) -> None:
    """The others have the rest, which is not left unused."""
    door.load({"greedy": 200.0, "modest": 4.0}, 60)

    assert door.admitted["modest"] > 0.9 * 4 * 60
    assert sum(door.admitted.values()) > 0.7 * 60 * PLACES / RUN_S


def test_a_key_that_has_left_has_no_share(door: Door) -> None:
    """What was its own is free for all a moment later."""
    door.load({"here": 200.0, "leaving": 200.0}, 10)
    before = door.admitted["here"]
    door.load({"here": 200.0}, 30)

    assert door.admitted["here"] - before > 0.9 * 30 * PLACES / RUN_S


def test_the_more_are_refused_the_later_they_come_again(door: Door) -> None:
    """Who is refused is told when there should be a place, with all those before it."""
    for _ in range(PLACES):
        door.come("key")
    waits = [door.come("key") for _ in range(200)]

    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(RUN_S / PLACES)
    assert waits[-1] == pytest.approx(200 * RUN_S / PLACES)
    door.now += 2
    assert door.come("key") == pytest.approx(RUN_S / PLACES)


def test_a_run_that_fails_gives_its_place_back(door: Door) -> None:
    """Whatever happens to it."""
    for _ in range(2 * PLACES):
        with suppress(ZeroDivisionError), door.admission.admit("key"):
            raise ZeroDivisionError

    assert door.admission.num_running == 0


MODEL_S = 0.5
LEAST = 4


class Line:
    """A model that takes `at_once` runs at a time, MODEL_S each, and runs that wait for it.

    Somebody always wants a place in the window; a step is the time of one turn of the model.
    """

    def __init__(self, most: int, at_once: int) -> None:
        self.now = 0.0
        self.at_once = at_once
        self.limit = AdaptiveLimit(most, LEAST, lambda: self.now)
        self._waiting: deque[float] = deque()

    def turn(self) -> None:
        """Fill the window, and let the model take its turn."""
        while len(self._waiting) < self.limit.value:
            self._waiting.append(self.now)
        under_way = len(self._waiting)
        taken = [self._waiting.popleft() for _ in range(min(self.at_once, under_way))]
        begun, self.now = self.now, self.now + MODEL_S
        for number, came in enumerate(taken):
            self.limit.observe(under_way - number, begun - came, MODEL_S)

    def turns(self, number: int) -> list[int]:
        """The window's sizes over so many turns."""
        sizes = []
        for _ in range(number):
            self.turn()
            sizes.append(self.limit.value)
        return sizes


def test_it_begins_wide() -> None:
    """Nobody is refused for what has not been seen."""
    assert AdaptiveLimit(256, LEAST).value == 256


@pytest.mark.parametrize("at_once", [8, 32])
def test_under_overload_a_run_waits_for_about_two_turns(at_once: int) -> None:
    """The window settles where twice as many wait as are in the model."""
    line = Line(256, at_once)
    line.turns(100)
    sizes = line.turns(200)

    assert at_once * 2 <= sum(sizes) / len(sizes) <= at_once * 4
    assert max(sizes) <= at_once * 5


def test_it_follows_replicas_that_come() -> None:
    """With twice the replicas it lets in twice as many, before long."""
    line = Line(256, 8)
    line.turns(200)
    line.at_once = 16
    line.turns(200)
    sizes = line.turns(200)

    assert sum(sizes) / len(sizes) >= 16 * 2


def test_it_does_not_shrink_below_a_few() -> None:
    """Somebody has to find out when it gets better; and never above what is allowed."""
    line = Line(256, 1)
    line.turns(500)
    assert line.limit.value >= LEAST
    assert AdaptiveLimit(2, LEAST).value == 2


def test_without_load_it_stays_as_it_is() -> None:
    """Runs that wait for nobody say nothing about how many more there could be."""
    line = Line(256, 8)
    line.turns(200)
    size = line.limit.value
    for _ in range(1000):
        line.limit.observe(1, 0.0, MODEL_S)

    assert line.limit.value == size


def test_one_unlucky_run_changes_nothing() -> None:
    """A single long wait is no overload."""
    limit = AdaptiveLimit(64, LEAST)
    limit.observe(10, 3.0, MODEL_S)

    assert limit.value == 64


def test_nothing_is_known_at_first() -> None:
    """Before any run has ended, no wait is known, and callers are told the shortest."""
    assert RetryAfterEstimate().seconds(4) == 0.0
    assert Overloaded.after(0.0).headers()["Retry-After"] == "1"


def test_places_get_free_one_after_another() -> None:
    """With runs of 8 seconds in 4 places, one gets free every 2 seconds."""
    retry_after = RetryAfterEstimate()
    retry_after.observe(8.0)

    assert retry_after.seconds(4) == 2.0


def test_the_average_follows_the_latest_runs() -> None:
    """A single slow run moves it a little, many move it all the way."""
    retry_after = RetryAfterEstimate()
    retry_after.observe(1.0)
    retry_after.observe(11.0)
    assert retry_after.seconds(1) == pytest.approx(2.0)
    for _ in range(100):
        retry_after.observe(11.0)

    assert retry_after.seconds(1) == pytest.approx(11.0, abs=0.01)


def test_a_refused_run_is_told_when_to_come_again() -> None:
    """Retry-After is when a place should be free, in whole seconds."""
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
