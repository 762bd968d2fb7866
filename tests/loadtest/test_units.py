"""Times, bounds and rates as people write and read them."""

from argparse import ArgumentTypeError

import pytest

from loadtest.units import bound, bound_s, number, rate, seconds, shown_s


@pytest.mark.parametrize(
    ("text", "value"),
    [("250ms", 0.25), ("2.5s", 2.5), ("10m", 600), ("1h", 3600), ("7", 7), (" 3s ", 3)],
)
def test_lengths_of_time_are_read(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0s", "-1s", "fast", "1 hour", "inf", "nan", "1e3s"])
def test_others_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"write 500ms, 2\.5s, 10m or 1h"):
        seconds(text)


def test_none_is_a_bound_that_nothing_exceeds() -> None:
    assert bound("none") == bound_s("none") == float("inf")


@pytest.mark.parametrize("text", ["-0.1", "nan", "much", ""])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no bound"):
        bound(text)


@pytest.mark.parametrize("text", ["0", "-1", "none", "inf"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        rate(text)


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "many"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="whole number from 1 on"):
        number(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0004, "0.4 ms"), (0.25, "250 ms"), (2.5, "2.5 s"), (60, "60 s"), (3600, "60 min")],
)
def test_times_are_shown_with_a_fitting_unit(value: float, text: str) -> None:
    assert shown_s(value) == text
