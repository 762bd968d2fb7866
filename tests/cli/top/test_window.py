"""Rates, levels and quantiles between two looks."""

import pytest

from deployments.cli.top.window import Window, quantile
from deployments.telemetry.metrics import PrometheusRecorder
from tests.cli.top.exporting import Service, said, text_of, window

REQUESTS = "florence_ingress_requests_total"
RUNS = "florence_ingress_run_seconds"


def requests(number: float, status: str = "200") -> str:
    """An Ingress that has answered so many."""
    recorder = PrometheusRecorder()
    recorder.record(REQUESTS, number, endpoint="e", status=status)
    return text_of(recorder)


def test_a_rate_is_the_increase_by_the_time() -> None:
    """Added up over series and sources."""
    seen = Window(said(5.0, requests(10), requests(0)), said(15.0, requests(30), requests(10)))
    assert seen.seconds == 10.0
    assert seen.rate(REQUESTS) == 3.0
    assert seen.rates(REQUESTS, "status") == {"200": 3.0}
    assert seen.rate(REQUESTS, status="500") is None


def test_a_counter_that_begins_anew_does_not_fall() -> None:
    """A replica that was started again has counted from zero: what it has is what is new."""
    seen = Window(said(0.0, requests(1000)), said(10.0, requests(20)))
    assert seen.rate(REQUESTS) == 2.0


def test_a_series_that_is_new_began_at_zero() -> None:
    """The first error after hours is an error now."""
    seen = Window(said(0.0, requests(5)), said(10.0, requests(5, "500")))
    assert seen.rates(REQUESTS, "status") == {"500": 0.5}


def test_of_an_exporter_that_is_new_nothing_is_known_yet() -> None:
    """What it counted in hours is not what happened since the last look."""
    seen = window({"a": requests(5)}, {"a": requests(15), "b": requests(70_000)})
    assert seen.rate(REQUESTS) == 1.0


def test_what_nobody_tells_is_not_zero() -> None:
    """Neither as a rate, nor as a level, nor as a quantile."""
    seen = Window(said(0.0, requests(1)), said(1.0, requests(1)))
    assert seen.rate("florence_none_total") is None
    assert seen.level("florence_inference_slots") is None
    assert seen.quantile(0.5, RUNS) is None
    assert seen.count("florence_inference_slots") == 0


def test_levels_are_of_now() -> None:
    """Added up over replicas, or the greatest where all tell the same."""

    def slots(*numbers: int) -> list[str]:
        texts = []
        for number in numbers:
            recorder = PrometheusRecorder()
            recorder.record("florence_inference_slots", number)
            recorder.record("florence_queue_requests", number, state="queued")
            texts.append(text_of(recorder))
        return texts

    seen = Window(said(0.0, *slots(1, 1)), said(1.0, *slots(8, 4)))
    assert seen.level("florence_inference_slots") == 12
    assert seen.level("florence_inference_slots", max) == 8
    assert seen.count("florence_inference_slots") == 2
    assert seen.levels("florence_queue_requests", "state") == {"queued": 8}


def test_a_quantile_is_of_what_is_new() -> None:
    """What was slow before the first look does not count."""
    service = Service()
    for _ in range(100):
        service.record.record(RUNS, 50.0, endpoint="e")
    service.mark()
    for _ in range(90):
        service.record.record(RUNS, 0.02, endpoint="e")
    for _ in range(10):
        service.record.record(RUNS, 0.2, endpoint="f")
    seen = service.seen()
    median, late = seen.quantile(0.5, RUNS), seen.quantile(0.95, RUNS)
    assert median
    assert late
    assert 0.01 < median < 0.025
    assert 0.1 < late < 0.25
    assert seen.quantile(0.5, RUNS, endpoint="f") == pytest.approx(0.175)


@pytest.mark.parametrize(
    ("buckets", "expected"),
    [
        ([], None),
        ([(1.0, 0.0), (float("inf"), 0.0)], None),
        ([(1.0, 10.0), (float("inf"), 10.0)], 0.5),
        ([(1.0, 0.0), (2.0, 4.0), (float("inf"), 4.0)], 1.5),
        ([(1.0, 1.0), (float("inf"), 10.0)], 1.0),
    ],
    ids=["none", "empty", "first", "second", "beyond"],
)
def test_quantiles_lie_in_their_bucket(
    buckets: list[tuple[float, float]], expected: float | None
) -> None:
    """Straight between its bounds; beyond the last bound nothing is known but that."""
    assert quantile(0.5, buckets) == expected
