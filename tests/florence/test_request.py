"""A request's times: when it has expired, and how long it may wait."""

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import RequestTimeout, StartTimeout
from deployments.florence.request import Request
from deployments.florence.schemas import ImageInput

times = st.floats(0, 2e9)
INPUT = ImageInput(image_url="data:,x")


@pytest.mark.parametrize(
    ("now", "expected"),
    [(5, None), (10, StartTimeout), (15, StartTimeout), (25, StartTimeout)],
)
def test_a_request_must_begin_in_time(now: float, expected: type[Exception] | None) -> None:
    """From `start_by` on it is the caller's own limit that was missed."""
    found = Request("r", "t", INPUT, deadline=20, start_by=10).expired(now)
    assert (expected or type(None)) is type(found)


@pytest.mark.parametrize(("now", "expected"), [(19.9, None), (20, RequestTimeout)])
def test_a_request_has_a_deadline(now: float, expected: type[Exception] | None) -> None:
    """Without a limit of the caller, the service's own holds."""
    assert (expected or type(None)) is type(Request("r", "t", INPUT, deadline=20).expired(now))


@given(now=times, deadline=times, start_by=st.one_of(times, st.just(float("inf"))))
def test_patience_ends_when_the_request_expires(
    now: float, deadline: float, start_by: float
) -> None:
    """A request may wait exactly as long as it has not expired."""
    request = Request("r", "t", INPUT, deadline=deadline, start_by=start_by)
    assert (request.patience(now) > 0) == (request.expired(now) is None)


def test_a_request_can_leave_its_image_behind() -> None:
    """Only the address goes; it may be a data URI as long as a file."""
    given = ImageInput(image_url="data:,x", num_beams=2)
    request = Request("r", "t", given, deadline=20, start_by=10, priority=1, base_url="b")
    light = request.without_image()
    assert (light.input.image_url, light.input.num_beams) == ("", 2)
    assert replace(light, input=given) == request
    assert given.image_url == "data:,x"


def test_a_light_request_is_cheap_to_send() -> None:
    """It goes to two deployments; the input's class goes by reference."""
    request = Request("r", "t", ImageInput(image_url="data:," + "x" * 10_000), deadline=20)
    sent = pickle.dumps(request.without_image())
    assert len(sent) < 1_000
    assert pickle.loads(sent) == request.without_image()
