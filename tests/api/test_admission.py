"""Who gets a place: each key its share, the idle places anybody, and nobody more than there are."""

import random
from collections import Counter
from contextlib import ExitStack, suppress

import pytest

from deployments.api.adaptive_limit import Window
from deployments.api.admission import Admission
from deployments.api.retry_after import Drain
from deployments.errors import Overloaded
from deployments.telemetry.metrics import PrometheusRecorder

PLACES = 24
RUN_S = 0.6


class Door:
    """An admission in virtual time, with runs that take RUN_S each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.drain = Drain()
        self.drain.observe(RUN_S)
        window = Window(PLACES, PLACES, lambda: self.now)
        self.recorder = PrometheusRecorder()
        self.admission = Admission(window, self.recorder, self.drain, lambda: self.now)
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
