"""Arrivals are fixed before the first request is sent."""

from itertools import pairwise

import pytest

from loadtest.kit.arrivals import Pattern, schedule, share
from loadtest.kit.plan import Plan
from loadtest.kit.scenarios import SCENARIOS


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize(("rate", "duration_s"), [(20, 30), (0.3, 60), (7.5, 12.5)])
def test_arrivals_stand_in_order_inside_the_run(
    pattern: Pattern, rate: float, duration_s: float
) -> None:
    """None is before the start or after the end."""
    arrivals = schedule(pattern, rate, duration_s)

    assert arrivals
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] < duration_s


@pytest.mark.parametrize("pattern", [Pattern.CONSTANT, Pattern.POISSON, Pattern.BURST])
def test_the_mean_rate_is_the_one_asked_for(pattern: Pattern) -> None:
    """Random arrivals within four standard deviations, the others exactly."""
    slack = 4 * 4000**0.5 if pattern is Pattern.POISSON else 0
    assert len(schedule(pattern, 40, 100)) == pytest.approx(4000, abs=slack)


def test_constant_arrivals_have_equal_gaps() -> None:
    assert schedule(Pattern.CONSTANT, 4, 1) == [0, 0.25, 0.5, 0.75]


def test_random_gaps_are_exponential() -> None:
    """As many are longer than the mean as of an exponential distribution: 37 %."""
    arrivals = schedule(Pattern.POISSON, 10, 1000)
    gaps = [b - a for a, b in pairwise(arrivals)]

    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)
    assert schedule(Pattern.POISSON, 10, 1000) == arrivals
    assert schedule(Pattern.POISSON, 10, 1000, seed=1) != arrivals


def test_a_burst_is_ten_seconds_at_once() -> None:
    """The last one is smaller when the run ends before its ten seconds do."""
    assert schedule(Pattern.BURST, 2, 15) == [0.0] * 20 + [10.0] * 10


def test_a_ramp_ends_at_ten_times_the_rate_it_began_with() -> None:
    arrivals = schedule(Pattern.RAMP, 100, 100)
    first, last = (sum(a <= at < a + 10 for at in arrivals) for a in (0, 90))

    assert len(arrivals) == pytest.approx(5500, abs=1)
    assert first == pytest.approx(145, abs=2)
    assert last == pytest.approx(955, abs=2)


@pytest.mark.parametrize("num", [1, 2, 7])
def test_workers_make_every_arrival_once(num: int) -> None:
    arrivals = schedule(Pattern.POISSON, 5, 20)
    made = [each for index in range(num) for each in share(arrivals, index, num)]

    assert sorted(made) == list(enumerate(arrivals))


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_round_of_a_scenario_has_all_of_its_calls(name: str) -> None:
    """In the numbers that the table says, and in the same order in every process."""
    row = SCENARIOS[name]
    plan = Plan(scenario=name, url="", pattern=row.pattern, rate=row.rate, duration_s=60)
    size = sum(item.weight for item in row.items)
    items = plan.items(3 * size)

    for item in row.items:
        assert [items[n * size : (n + 1) * size].count(item) for n in range(3)] == [item.weight] * 3
    assert Plan.model_validate_json(plan.model_dump_json()).items(3 * size) == items
