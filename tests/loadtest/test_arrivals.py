"""Arrivals are fixed before the first request is sent."""

from itertools import pairwise

import pytest

from loadtest.arrivals import Pattern, arrival_times
from loadtest.scenarios import SCENARIOS, ScenarioRun, Thresholds


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize(("rate", "duration_s"), [(20, 30), (0.3, 60), (7.5, 12.5)])
def test_arrivals_stand_in_order_inside_the_run(
    pattern: Pattern, rate: float, duration_s: float
) -> None:
    """None is before the start or after the end."""
    arrivals = arrival_times(pattern, rate, duration_s)

    assert arrivals
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] < duration_s


@pytest.mark.parametrize("pattern", [Pattern.CONSTANT, Pattern.POISSON, Pattern.BURST])
def test_the_mean_rate_is_the_one_asked_for(pattern: Pattern) -> None:
    """Random arrivals within four standard deviations, the others exactly."""
    slack = 4 * 4000**0.5 if pattern is Pattern.POISSON else 0
    assert len(arrival_times(pattern, 40, 100)) == pytest.approx(4000, abs=slack)


def test_constant_arrivals_have_equal_gaps() -> None:
    assert arrival_times(Pattern.CONSTANT, 4, 1) == [0, 0.25, 0.5, 0.75]


def test_random_gaps_are_exponential() -> None:
    """As many are longer than the mean as of an exponential distribution: 37 %."""
    arrivals = arrival_times(Pattern.POISSON, 10, 1000)
    gaps = [b - a for a, b in pairwise(arrivals)]

    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)
    assert arrival_times(Pattern.POISSON, 10, 1000) == arrivals
    assert arrival_times(Pattern.POISSON, 10, 1000, seed=1) != arrivals


def test_a_burst_is_ten_seconds_at_once() -> None:
    """The last one is smaller when the run ends before its ten seconds do."""
    assert arrival_times(Pattern.BURST, 2, 15) == [0.0] * 20 + [10.0] * 10


def test_a_ramp_ends_at_ten_times_the_rate_it_began_with() -> None:
    arrivals = arrival_times(Pattern.RAMP, 100, 100)
    first, last = (sum(a <= at < a + 10 for at in arrivals) for a in (0, 90))

    assert len(arrivals) == pytest.approx(5500, abs=1)
    assert first == pytest.approx(145, abs=2)
    assert last == pytest.approx(955, abs=2)


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_round_of_a_scenario_has_all_of_its_calls(name: str) -> None:
    """In the numbers that the table says, and in the same order in every process."""
    row = SCENARIOS[name]
    size = sum(call.weight for call in row.calls)
    given = {"scenario": name, "url": "", "pattern": Pattern.CONSTANT, "rate": 3 * size}
    run = ScenarioRun(duration_s=1, thresholds=Thresholds(), **given)

    assert len(run.calls) == len(run.arrivals) == 3 * size
    for call in row.calls:
        rounds = [run.calls[n * size : (n + 1) * size].count(call) for n in range(3)]
        assert rounds == [call.weight] * 3
    again = ScenarioRun.model_validate_json(run.model_dump_json())
    assert again == run
    assert again.calls == run.calls
