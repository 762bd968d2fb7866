"""A request's times: when it has expired, and how long it may wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import RequestTimeout, StartTimeout
from deployments.florence.request import Request, Stages

times = st.floats(0, 2e9)


@pytest.mark.parametrize(
    ("now", "expected"),
    [(5, None), (10, StartTimeout), (15, StartTimeout), (25, StartTimeout)],
)
def test_a_run_must_begin_in_time(now: float, expected: type[Exception] | None) -> None:
    """From `start_by` on it is the caller's own limit that was missed."""
    found = Request("r", "t", "u", deadline=20, start_by=10).expired(now)
    assert (expected or type(None)) is type(found)


@pytest.mark.parametrize(("now", "expected"), [(19.9, None), (20, RequestTimeout)])
def test_a_run_has_a_deadline(now: float, expected: type[Exception] | None) -> None:
    """Without a limit of the caller, the service's own holds."""
    assert (expected or type(None)) is type(Request("r", "t", "u", deadline=20).expired(now))


@given(now=times, deadline=times, start_by=st.one_of(times, st.just(float("inf"))))
def test_patience_ends_when_the_run_expires(now: float, deadline: float, start_by: float) -> None:
    """A run has patience exactly as long as it has not expired."""
    run = Request("r", "t", "u", deadline=deadline, start_by=start_by)
    assert (run.patience(now) > 0) == (run.expired(now) is None)


def test_stages_add_up_from_several_boxes() -> None:
    """Each box adds what it knows, and changes nothing else."""
    first = Stages(fetch_s=1.0)
    assert first.with_(model_s=2.0) == Stages(fetch_s=1.0, model_s=2.0)
    assert first == Stages(fetch_s=1.0)


def test_a_run_can_leave_its_image_behind() -> None:
    """Only the address goes; it may be a data URI as long as a file."""
    run = Request("r", "t", "data:,x", deadline=20, start_by=10, priority=1, base_url="b")
    assert run.without_image() == Request(
        "r", "t", "", deadline=20, start_by=10, priority=1, base_url="b"
    )
    assert run.image_url == "data:,x"
