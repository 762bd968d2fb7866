"""Our metrics are found in what exporters say."""

import pytest

from deployments.cli.top.exposition import NoExposition, samples, scrape
from deployments.telemetry.metrics import PrometheusRecorder
from tests.cli.top.exporting import RAYS_OWN, text_of


@pytest.fixture
def recorder() -> PrometheusRecorder:
    """One run that was answered."""
    recorder = PrometheusRecorder()
    recorder.record("florence_ingress_requests_total", endpoint="e", status="200")
    return recorder


def test_our_metrics_are_read_and_others_passed_over(recorder: PrometheusRecorder) -> None:
    """With their labels."""
    found = samples(RAYS_OWN + text_of(recorder), "a")
    labels = (("endpoint", "e"), ("status", "200"))
    assert found["florence_ingress_requests_total", labels] == 1.0
    assert not any(name.startswith("ray_node") for name, _ in found)


def test_rays_export_and_the_ingresss_page_count_once(recorder: PrometheusRecorder) -> None:
    """Both tell of the same requests; Ray's are known by their prefix."""
    texts = {"ingress": text_of(recorder), "node": text_of(recorder, by_ray=True)}
    found = scrape(1.0, texts)
    values = [
        (source, value)
        for source, (name, _), value in found.series()
        if name == "florence_ingress_requests_total"
    ]
    assert values == [("node", 1.0)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>Not here</html>",
        '{"status": "ok"}',
        "# TYPE florence_x counter\nflorence_x one\n",
    ],
    ids=["empty", "page", "JSON", "broken"],
)
def test_other_texts_are_refused(text: str) -> None:
    """By the name of who said it."""
    with pytest.raises(NoExposition, match="http://there"):
        scrape(1.0, {"http://there": text})
