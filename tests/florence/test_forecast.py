"""The expected length of an answer: a first guess, then what the task's answers were like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.florence.forecast import FIRST_GUESS, Forecast


def test_an_unknown_task_gets_the_first_guess() -> None:
    """Somebody has to be first."""
    assert Forecast().num_tokens("caption") == FIRST_GUESS


def test_tasks_are_told_apart() -> None:
    """A caption says nothing about how many boxes there are."""
    forecast = Forecast()
    for _ in range(100):
        forecast.note("caption", 10)
    assert forecast.num_tokens("region-proposal") == FIRST_GUESS
    assert forecast.num_tokens("caption") == pytest.approx(10, abs=1)


def test_one_strange_answer_does_not_change_much() -> None:
    """The mean moves slowly."""
    forecast = Forecast()
    for _ in range(100):
        forecast.note("caption", 10)
    before = forecast.num_tokens("caption")
    forecast.note("caption", 1000)
    assert forecast.num_tokens("caption") == pytest.approx(before + (1000 - before) / 20)


@given(st.lists(st.integers(1, 1024), min_size=1))
def test_a_forecast_lies_among_what_was_seen(lengths: list[int]) -> None:
    """Between the shortest and the longest, the first guess included."""
    forecast = Forecast()
    for length in lengths:
        forecast.note("caption", length)
    seen = [FIRST_GUESS, *lengths]
    assert min(seen) - 1e-9 <= forecast.num_tokens("caption") <= max(seen) + 1e-9
