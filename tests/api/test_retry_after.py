"""How long a caller who finds no place should wait."""

import pytest

from deployments.api.adaptive_limit import Window
from deployments.api.admission import Admission
from deployments.api.retry_after import Drain
from deployments.errors import Overloaded
from deployments.telemetry.metrics import PrometheusRecorder


def test_nothing_is_known_at_first() -> None:
    """Before any run has ended, no wait is known, and callers are told the shortest."""
    assert Drain().wait_s(4) == 0.0
    assert Overloaded.after(0.0).headers()["Retry-After"] == "1"


def test_places_get_free_one_after_another() -> None:
    """With runs of 8 seconds in 4 places, one gets free every 2 seconds."""
    drain = Drain()
    drain.observe(8.0)

    assert drain.wait_s(4) == 2.0


def test_the_average_follows_the_latest_runs() -> None:
    """A single slow run moves it a little, many move it all the way."""
    drain = Drain()
    drain.observe(1.0)
    drain.observe(11.0)
    assert drain.wait_s(1) == pytest.approx(2.0)
    for _ in range(100):
        drain.observe(11.0)

    assert drain.wait_s(1) == pytest.approx(11.0, abs=0.01)


def test_a_refused_run_is_told_when_to_come_again() -> None:
    """Retry-After is when a place should be free, in whole seconds."""
    drain = Drain()
    drain.observe(7.0)
    admission = Admission(Window(2, 2), PrometheusRecorder(), drain)

    with (
        admission.admit("key"),
        admission.admit("key"),
        pytest.raises(Overloaded) as refused,
        admission.admit("key"),
    ):
        raise AssertionError("admitted")
    assert refused.value.headers()["Retry-After"] == "4"
