"""Grafana's dashboard is whole, and every query in it is one of Prometheus'."""

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from deployments.autoscaling import GAUGES
from deployments.telemetry.metrics import METRICS
from k8s.generate.dashboard import DASHBOARD, WIDTH, dashboard, of_installation
from tests.k8s import promtool
from tests.k8s.promtool import alerts, exported_names

BOARD: dict[str, Any] = json.loads(DASHBOARD.read_text())
PANELS: list[dict[str, Any]] = [each for each in BOARD["panels"] if each["type"] != "row"]
EXPRS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {
    "$__rate_interval": "5m",
    "$namespace": "inference",
    "$florence": "florence",
    "$price": "2.5",
}
INSTALLATION = 'namespace="$namespace", florence="$florence"'
UNITS = {"reqps", "ops", "percentunit", "s", "short", "bytes", "currencyUSD"}
PARTS = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count"),  # the sum is a guess
}
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def squares(place: dict[str, int]) -> Counter[tuple[int, int]]:
    """The squares of the grid that a panel covers."""
    x, y = place["x"], place["y"]
    return Counter(product(range(x, x + place["w"]), range(y, y + place["h"])))


def test_the_dashboard_is_made_of_the_panels() -> None:
    """By `make chart`."""
    assert DASHBOARD.read_text() == dashboard()


def test_panels_have_places_of_their_own() -> None:
    """None lies over another, or beyond the edge, and no id is there twice."""
    covered = sum((squares(each["gridPos"]) for each in BOARD["panels"]), Counter())
    assert set(covered.values()) == {1}
    assert max(x for x, _ in covered) == WIDTH - 1
    ids = [each["id"] for each in BOARD["panels"]]
    assert len(ids) == len(set(ids)) > 40


@each_panel
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    """It has a title, a sentence and a unit, and a legend where there are lines."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"]["uid"] == "${datasource}"
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(legends) == len(set(legends)) > 0
    assert all(legends) or panel["type"] == "stat"


def test_every_title_is_there_once() -> None:
    """So that people can speak of a panel."""
    assert not [
        title
        for title, number in Counter(panel["title"] for panel in PANELS).items()
        if number > 1 and title != "GPU busy"  # as a number and as lines
    ]


def test_every_query_is_of_one_installation() -> None:
    """Each metric in it, however often."""
    for expr in EXPRS:
        assert expr.count(INSTALLATION) == expr.count("ray_") > 0, expr


def test_a_filter_goes_before_the_labels_of_a_metric() -> None:
    """And nothing else is changed."""
    expr = 'max by (x) (ray_a{b="c"}) / ray_d[5m]'
    assert of_installation(expr) == (
        f'max by (x) (ray_a{{{INSTALLATION}, b="c"}}) / ray_d{{{INSTALLATION}}}[5m]'
    )


def test_every_query_is_promql(tmp_path: Path) -> None:
    """With a value for each variable; none is unknown."""
    exprs = [filled(expr) for expr in EXPRS]
    assert not [expr for expr in exprs if "$" in expr]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    assert promtool.check(promtool.write_rules(tmp_path, rules)) == ""


def test_promtool_does_look(tmp_path: Path) -> None:
    """A query that is none is found, so that the test above can fail."""
    rules = [{"record": "panel:1", "expr": "sum by (x) (rate(y)"}]
    assert "parse" in promtool.check(promtool.write_rules(tmp_path, rules))


def test_every_metric_of_ours_exists() -> None:
    """With the suffixes of its kind, in the alerts too."""
    known = {f"ray_{name}{part}" for name, metric in METRICS.items() for part in PARTS[metric.kind]}
    policies = {f"ray_{name}" for name in GAUGES}
    exprs = [*EXPRS, *(alert["expr"] for alert in alerts())]
    named = {name for name in exported_names(exprs) if name.startswith("ray_florence_")}
    assert named - known - policies == set()
    assert len(named) > 30


def test_variables_are_those_of_the_queries() -> None:
    """And the source."""
    names = {each["name"] for each in BOARD["templating"]["list"]}
    assert names == {"datasource", "namespace", "florence", "price"}


def filled(expr: str) -> str:
    """An expression with values in place of its variables."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr
