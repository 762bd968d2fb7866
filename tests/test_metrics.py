"""Every metric that is declared can be recorded, and is printed as Prometheus reads it."""

import re

import pytest
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics import METRICS, SECONDS, Metric, PrometheusRecorder, RayRecorder

NAME = re.compile(r"florence_(ingress|preprocess|inference|postprocess|dispatcher)(_[a-z]+)+")
each_metric = pytest.mark.parametrize(("name", "metric"), METRICS.items(), ids=METRICS)


def labels_of(metric: Metric) -> dict[str, str]:
    """A value for each label, with what has to be escaped."""
    return {label: f'a "{label}"\\\n' for label in metric.labels}


def exposed(recorder: PrometheusRecorder) -> dict[str, Family]:
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
    """`florence_<box>_<what>_<unit>`: counters end in _total, times in _seconds, nothing else."""
    assert NAME.fullmatch(name)
    assert (metric.kind == "counter") == name.endswith("_total")
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
    assert set(metric.labels) <= {"endpoint", "status", "outcome", "key"}


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
    first.record("florence_ingress_retries_total")
    [sample] = [
        each
        for each in exposed(second)["florence_ingress_retries"].samples
        if each.name.endswith("_total")
    ]
    assert sample.value == 0


@each_metric
def test_ray_takes_every_metric(name: str, metric: Metric) -> None:
    """Ray accepts each name, kind, bound and label, once and again."""
    recorder = RayRecorder()
    recorder.record(name, 1.0, **labels_of(metric))
    recorder.record(name, 2.0, **labels_of(metric))
