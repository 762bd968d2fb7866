"""Thresholds decide, each by its own figure."""

import math
from dataclasses import replace

import pytest

from loadtest.kit.analysis import Analysis
from loadtest.kit.record import Outcome, Record
from loadtest.kit.scenarios import INF, Bounds
from loadtest.kit.thresholds import judge

OPEN = Bounds(error_rate=INF, refused_rate=INF, lag_s=INF)


def records(num: int = 100, latency_s: float = 0.1, lag_s: float = 0.0) -> list[Record]:
    """Good answers, one a second."""
    return [Record("run", float(n), latency_s, lag_s, Outcome.OK, 200) for n in range(num)]


def ended(num: int, outcome: Outcome) -> list[Record]:
    """The same, with another end."""
    return [replace(record, outcome=outcome) for record in records(num)]


def missed(analysis: Analysis, bounds: Bounds) -> list[str]:
    """The titles of those that were not kept."""
    return [verdict.title for verdict in judge(analysis, bounds) if not verdict.is_kept]


def test_a_bound_is_kept_up_to_itself() -> None:
    found = Analysis(records(latency_s=0.5), 100, 100)

    assert missed(found, replace(OPEN, p95_s=0.5)) == []
    assert missed(found, replace(OPEN, p95_s=0.499)) == ["p95"]


def test_each_verdict_names_its_bound_and_its_value() -> None:
    [verdict] = judge(Analysis(records(latency_s=0.5), 100, 100), replace(OPEN, p99_s=2))

    assert (verdict.title, verdict.bound, verdict.value) == ("p99", "≤ 2 s", "500 ms")
    assert verdict.word == "ok"


def test_an_infinite_bound_asks_for_nothing() -> None:
    assert judge(Analysis(ended(9, Outcome.FAILED), 9, 9), OPEN) == []


def test_refusals_are_no_errors() -> None:
    """429 is an answer, and has a bound of its own."""
    found = Analysis(records(90) + ended(10, Outcome.REFUSED), 100, 100)

    assert found.error_rate == 0
    assert missed(found, replace(OPEN, error_rate=0, refused_rate=0.05)) == ["refused (429)"]


def test_an_arrival_of_which_nobody_tells_has_failed() -> None:
    """A lost worker cannot make a run look better."""
    found = Analysis(records(90), 100, 100)

    assert found.error_rate == pytest.approx(0.1)
    assert missed(found, replace(OPEN, error_rate=0.05)) == ["errors"]


def test_failures_do_not_count_as_quick_answers() -> None:
    quick = [replace(r, latency_s=0.001) for r in ended(50, Outcome.FAILED)]

    assert Analysis(records(50) + quick, 100, 100).latency.p50 == pytest.approx(0.1)


def test_a_generator_that_falls_behind_misses_a_threshold() -> None:
    found = Analysis(records(latency_s=0.6, lag_s=0.5), 100, 100)

    assert missed(found, Bounds()) == ["generator's lag, p99"]


def test_what_could_not_be_measured_is_missed() -> None:
    """Without a good answer there is no p95, and nobody may take that for a good one."""
    found = Analysis(ended(10, Outcome.FAILED), 10, 10)
    [verdict] = judge(found, replace(OPEN, p95_s=1))

    assert (verdict.value, verdict.word) == ("not measured", "missed")


@pytest.mark.parametrize(("factor", "titles"), [(1.4, []), (1.6, ["drift, last tenth over first"])])
def test_a_service_that_slows_down_drifts(factor: float, titles: list[str]) -> None:
    slower = [replace(r, latency_s=0.1 * factor) if r.at_s >= 90 else r for r in records()]

    assert missed(Analysis(slower, 100, 100), replace(OPEN, drift=1.5)) == titles


def test_a_few_answers_say_nothing_of_drift() -> None:
    assert math.isnan(Analysis(records(20), 20, 20).drift)
