"""One request in the engine: when it expires, and whether its caller still waits."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import RequestTimeout, StartTimeout
from deployments.florence.sequence import Sequence

times = st.floats(0, 2e9)


def sequence(**fields: Any) -> Sequence:
    """One about nothing."""
    return Sequence(np.zeros((1, 1, 3), np.uint8), (), **fields)


@pytest.mark.parametrize(
    ("now", "expected"),
    [(5, None), (10, StartTimeout), (15, StartTimeout), (25, StartTimeout)],
)
def test_a_sequence_must_begin_in_time(now: float, expected: type[Exception] | None) -> None:
    """From `start_by` on it is the caller's own limit that was missed."""
    found = sequence(deadline=20, start_by=10).expired(now)
    assert (expected or type(None)) is type(found)


@pytest.mark.parametrize(("now", "expected"), [(19.9, None), (20, RequestTimeout)])
def test_a_sequence_has_a_deadline(now: float, expected: type[Exception] | None) -> None:
    """Without a limit of the caller, or after it has begun, the service's own holds."""
    begun = sequence(deadline=20, start_by=10)
    begun.began = 1.0
    for each in (sequence(deadline=20), begun):
        assert (expected or type(None)) is type(each.expired(now))


@given(now=times, deadline=times, start_by=st.one_of(times, st.just(float("inf"))))
def test_time_is_left_until_it_expires(now: float, deadline: float, start_by: float) -> None:
    """Exactly so long."""
    found = sequence(deadline=deadline, start_by=start_by)
    assert (found.left_s(now) > 0) == (found.expired(now) is None)


def test_a_sequence_that_is_unwanted_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the clock is set back: what was cut short never comes out as whole."""
    found, now = sequence(deadline=100.0), [0.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    assert found.is_wanted()
    now[0] = 100.0
    assert not found.is_wanted()
    now[0] = 0.0
    assert not found.is_wanted()


def test_a_caller_that_has_left_wants_nothing() -> None:
    """Its future is cancelled."""
    found = sequence()
    found.future.cancel()
    assert not found.is_wanted()
