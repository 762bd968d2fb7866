"""Thresholds decide, each by its own figure."""

import math
from dataclasses import replace

import pytest

from loadtest.scenarios import INF, Thresholds
from loadtest.verdict import Measured, judge, summary

OPEN = Thresholds(error_rate=INF, refused_rate=INF, lag_s=INF)
GOOD = Measured(
    num_planned=100,
    num_good=100,
    num_refused=0,
    elapsed_s=20,
    p50_s=0.1,
    p95_s=0.5,
    p99_s=0.6,
    drift=math.nan,
    lag_s=0.001,
)


def missed(measured: Measured, thresholds: Thresholds) -> list[str]:
    """The titles of those that were not kept."""
    return [verdict.title for verdict in judge(measured, thresholds) if not verdict.is_kept]


def test_a_bound_is_kept_up_to_itself() -> None:
    assert missed(GOOD, replace(OPEN, p95_s=0.5)) == []
    assert missed(GOOD, replace(OPEN, p95_s=0.499)) == ["p95"]


def test_each_verdict_names_its_bound_and_its_value() -> None:
    [verdict] = judge(GOOD, replace(OPEN, p99_s=2))

    assert (verdict.title, verdict.bound, verdict.value) == ("p99", "≤ 2 s", "600 ms")


def test_an_infinite_bound_asks_for_nothing() -> None:
    assert judge(replace(GOOD, num_good=0), OPEN) == []


def test_refusals_are_no_errors() -> None:
    """429 is an answer, and has a bound of its own."""
    measured = replace(GOOD, num_good=90, num_refused=10)

    assert measured.error_rate == 0
    assert missed(measured, replace(OPEN, error_rate=0, refused_rate=0.05)) == ["refused (429)"]


def test_an_arrival_that_no_worker_reported_has_failed() -> None:
    """A lost worker cannot make a run look better."""
    measured = replace(GOOD, num_good=90)

    assert measured.error_rate == pytest.approx(0.1)
    assert missed(measured, replace(OPEN, error_rate=0.05)) == ["errors"]


def test_small_shares_keep_their_digits() -> None:
    [verdict] = judge(replace(GOOD, num_good=99), replace(OPEN, error_rate=0.00012))

    assert (verdict.bound, verdict.value) == ("≤ 0.012 %", "1 %")


def test_what_could_not_be_measured_is_missed() -> None:
    """Without a good answer there is no p95, and silence is no success."""
    [verdict] = judge(replace(GOOD, p95_s=math.nan), replace(OPEN, p95_s=1))

    assert (verdict.value, verdict.is_kept) == ("not measured", False)


def test_a_service_that_slows_down_drifts() -> None:
    assert missed(replace(GOOD, drift=1.4), replace(OPEN, drift=1.5)) == []
    assert missed(replace(GOOD, drift=1.6), replace(OPEN, drift=1.5)) == [
        "drift, last tenth over first"
    ]


def test_the_summary_says_what_was_missed_and_that_the_generator_was_late() -> None:
    late = replace(GOOD, lag_s=0.4)
    text = summary("steady", late, judge(late, Thresholds(p95_s=1)))

    assert text.startswith("steady: missed generator's lag, p99\ngood answers: 100 of 100, 5 per")
    assert "fell behind its own schedule" in text
    assert "fell behind" not in summary("steady", GOOD, judge(GOOD, Thresholds()))
