"""The picture is drawn again and again, also while the service is away for a moment."""

from collections import deque
from itertools import islice

from deployments.cli.top.exposition import Scrape
from deployments.cli.top.live import overviews, remember, title
from deployments.cli.top.sources import REMEDY, Exporters
from deployments.errors import SetupError
from deployments.telemetry.metrics import PrometheusRecorder
from tests.cli.top.exporting import said, text_of


class Flaky(Exporters):
    """Exporters that say what a counter counts, and are away at the third look."""

    def __init__(self) -> None:
        self.looks = 0
        self.recorder = PrometheusRecorder()

    def fetch(self) -> Scrape:
        self.looks += 1
        self.recorder.record("florence_ingress_requests_total", endpoint="e", status="200")
        if self.looks == 3:
            raise SetupError(f"no answer from http://a (gone): {REMEDY}")
        return said(float(self.looks), text_of(self.recorder))


def test_a_service_that_is_away_is_told_and_awaited() -> None:
    """The last numbers stay, with what is wrong; then it goes on."""
    frames = list(islice(overviews(Flaky(), every_s=0.001, window_s=60.0), 3))
    rates = [shown.traffic.by_status_per_s["200"] for shown, _ in frames]
    assert rates == [1.0, 1.0, 1.0]
    assert [trouble for _, trouble in frames] == ["", "no answer from http://a (gone)", ""]
    assert [shown.seconds for shown, _ in frames] == [1.0, 1.0, 3.0]


def test_the_window_is_not_outgrown() -> None:
    """Looks that are older are forgotten; two are always kept."""
    seen: deque[Scrape] = deque()
    for second in range(100):
        remember(seen, Scrape(float(second), {}), 10.0)
    assert seen[-1].at - seen[0].at == 10.0
    for second in (200, 300):
        remember(seen, Scrape(float(second), {}), 10.0)
    assert [each.at for each in seen] == [200.0, 300.0]


def test_the_title_is_short() -> None:
    """The first address, and how many more there are."""
    assert title(["http://a:1/metrics"]) == "a:1"
    assert title(["http://a:1/metrics", "http://b:1/metrics"]) == "a:1 and 1 more"
