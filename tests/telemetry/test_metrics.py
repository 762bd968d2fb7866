"""Every metric that is declared can be recorded, and is printed as Prometheus reads it."""

import re

import pytest
from prometheus_client import Metric as ProcessTree
from prometheus_client.parser import text_string_to_metric_families

from deployments.telemetry.metrics import (
    METRICS,
    SECONDS,
    Metric,
    PrometheusRecorder,
    RayRecorder,
    SharedRecorder,
)

DEPLOYMENTS = "ingress|preprocess|inference|postprocess|dispatcher"
PARTS = "queue|webhooks|store|process"  # recorded by several deployments
NAME = re.compile(rf"florence_({DEPLOYMENTS}|{PARTS})(_[a-z]+)*")
each_metric = pytest.mark.parametrize(("name", "metric"), METRICS.items(), ids=METRICS)


def labels_of(metric: Metric) -> dict[str, str]:
    """A value for each label, with what has to be escaped."""
    return {label: f'a "{label}"\\\n' for label in metric.labels}


def exposed(recorder: PrometheusRecorder) -> dict[str, ProcessTree]:
    """The families that a scraper sees, by name; a counter's name is without its suffix."""
    text = recorder.exposition().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


@each_metric
def test_a_metric_can_be_recorded_and_scraped(name: str, metric: Metric) -> None:
    """It appears under its name, kind and help, with its labels and what was recorded."""
    recorder = PrometheusRecorder()
    recorder.record(name, 2.5, **labels_of(metric))
    recorder.record(name, 2.5, **labels_of(metric))
    family = exposed(recorder)[name.removesuffix("_total")]
    assert (family.type, family.documentation) == (metric.kind, metric.help)
    sample = f"{name}_sum" if metric.kind == "histogram" else name
    [found] = [each for each in family.samples if each.name == sample]
    assert found.labels == labels_of(metric)
    assert found.value == (2.5 if metric.kind == "gauge" else 5.0)


@each_metric
def test_a_histogram_has_its_bounds(name: str, metric: Metric) -> None:
    """The buckets are those declared, and infinity; other kinds have none."""
    recorder = PrometheusRecorder()
    recorder.record(name, 1.0, **labels_of(metric))
    family = exposed(recorder)[name.removesuffix("_total")]
    bounds = [float(each.labels["le"]) for each in family.samples if each.name.endswith("_bucket")]
    assert bounds == ([*metric.bounds, float("inf")] if metric.kind == "histogram" else [])
    assert sorted(set(metric.bounds)) == list(metric.bounds)


@each_metric
def test_names_follow_the_scheme(name: str, metric: Metric) -> None:
    """`florence_<deployment>_<what>_<unit>`: counters end in _total, times in _seconds."""
    assert NAME.fullmatch(name)
    assert (metric.kind == "counter") == name.endswith("_total")
    if metric.kind == "histogram":
        assert (metric.bounds == SECONDS) == name.endswith("_seconds")
    assert not re.search(r"_(ms|milliseconds|mb|kb|minutes)(_|$)", name)


@each_metric
def test_every_metric_is_explained(name: str, metric: Metric) -> None:
    """The help is a sentence."""
    assert metric.help[0].isupper()
    assert metric.help.endswith(".")


@each_metric
def test_labels_are_few(name: str, metric: Metric) -> None:
    """No label can take a value that a client invents, such as a path or an id."""
    known = {"endpoint", "status", "outcome", "key", "limit", "reason", "cause", "state"}
    assert set(metric.labels) <= known | {"operation", "deployment", "adapter"}


def test_an_undeclared_metric_is_a_bug() -> None:
    """A name that is not in the table cannot be recorded."""
    with pytest.raises(KeyError):
        PrometheusRecorder().record("florence_ingress_surprises_total")


def test_wrong_labels_are_a_bug() -> None:
    """A metric takes the labels that were declared."""
    with pytest.raises(ValueError, match="label"):
        PrometheusRecorder().record("florence_ingress_requests_total", endpoint="x")


def test_two_recorders_do_not_share() -> None:
    """Each has a registry of its own."""
    first, second = PrometheusRecorder(), PrometheusRecorder()
    first.record("florence_postprocess_pictures_lost_total")
    assert value(second, "florence_postprocess_pictures_lost_total") == 0


def value(recorder: PrometheusRecorder, name: str) -> float:
    """What a metric without labels stands at."""
    family = exposed(recorder)[name.removesuffix("_total")]
    [sample] = [each for each in family.samples if each.name == name]
    return float(sample.value)


def test_a_shared_recorder_hands_on_what_was_measured_here() -> None:
    """Not what other deployments measured, nor what is the whole cluster's."""
    other = PrometheusRecorder()
    shared = SharedRecorder(other)
    for name in ("florence_ingress_running", "florence_inference_slots", "florence_store_bytes"):
        shared.record(name, 7.0)
        assert value(shared, name) == 7.0
    assert value(other, "florence_ingress_running") == 7.0
    assert exposed(other)["florence_inference_slots"].samples == []
    assert exposed(other)["florence_store_bytes"].samples == []


@each_metric
def test_ray_takes_every_metric(name: str, metric: Metric) -> None:
    """Ray accepts each name, kind, bound and label, once and again, and nothing to add."""
    recorder = RayRecorder()
    recorder.record(name, 1.0, **labels_of(metric))
    recorder.record(name, 0.0, **labels_of(metric))
    recorder.record(name, 2.0, **labels_of(metric))


def test_a_replicas_gauges_are_set_again() -> None:
    """Ray forgets them; the cluster's gauges may be forgotten, once the store is not read."""
    recorder = RayRecorder()
    said: list[str] = []

    class Gauge:
        def set(self, value: float, tags: dict[str, str]) -> None:
            said.append(f"{value} {tags}")

    recorder._metrics = dict.fromkeys(("florence_inference_slots", "florence_webhooks"), Gauge())
    recorder.record("florence_inference_slots", 8.0)
    recorder.record("florence_webhooks", 3.0, state="dead")
    recorder.refresh()
    assert said == ["8.0 {}", "3.0 {'state': 'dead'}", "8.0 {}"]


def test_serve_labels_a_replicas_metrics_by_itself() -> None:
    """It refuses a label `deployment` from a replica; outside of one the label is ours."""
    name = "florence_process_cpu_seconds_total"
    inside, outside = RayRecorder(), RayRecorder(in_replica=False)
    for recorder in (inside, outside):
        recorder.record(name, 1.0, deployment="Inference")
    tags = [recorder._metrics[name].info["tag_keys"] for recorder in (inside, outside)]
    assert tags == [(), ("deployment",)]
