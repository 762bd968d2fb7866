"""Grafana's dashboard, made of `panels`: JSON as Grafana reads it."""

import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from k8s.generate.helm import CHART
from k8s.generate.panels import ROWS, Panel, Query, Row

DASHBOARD = CHART / "files" / "dashboards" / "florence.json"
LETTERS = "ABCDEFGH"  # which Grafana calls the queries of a panel
WIDTH = 24  # Grafana's grid
HEIGHTS = {"timeseries": 8, "stat": 4}
METRIC = re.compile(r"(?P<name>ray_\w+)(?:\{(?P<labels>[^}]*)\})?")
INSTALLATION = 'namespace="$namespace", florence="$florence"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Each installation has it, also while its deployments are away: counters stay.
KNOWN_BY = "ray_florence_process_cpu_seconds_total"
Json = dict[str, Any]


def dashboard() -> str:
    made = {
        "title": "Florence Serve",
        "uid": "florence-serve",
        "description": "Florence-2 on Ray Serve: traffic, queue, models, cost.",
        "tags": ["florence", "ray"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": [firing()]},
        "templating": {"list": variables()},
        "panels": list(panels()),
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def firing() -> Json:
    """Marks where an alert of this installation fired."""
    return {
        "name": "Alerts",
        "enable": True,
        "iconColor": "red",
        "datasource": SOURCE,
        "expr": f'ALERTS{{alertname=~"Florence.*", alertstate="firing", {INSTALLATION}}}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{deployment}} {{key}}",
    }


def variables() -> list[Json]:
    """What is chosen above the panels: the source, the installation, and the price of a GPU."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource"}
    price = {"name": "price", "label": "Price of a GPU for an hour", "type": "textbox"}
    chosen = {"text": "2.50", "value": "2.50"}
    return [
        source | {"query": "prometheus"},
        values_of("namespace", KNOWN_BY),
        values_of("florence", f'{KNOWN_BY}{{namespace="$namespace"}}'),
        price | {"query": "2.50", "current": chosen, "options": [chosen | {"selected": True}]},
    ]


def values_of(label: str, series: str) -> Json:
    return {
        "name": label,
        "label": {"namespace": "Namespace", "florence": "Release"}[label],
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({series}, {label})", "refId": label},
        "refresh": 2,
        "sort": 1,
    }


def panels() -> Iterator[Json]:
    ids = count(1)
    top = 0
    for row in ROWS:
        yield headline(row, next(ids), top)
        top += 1
        for number, panel in enumerate(row.panels):
            yield picture(panel, next(ids)) | {"gridPos": place(row, number, top)}
        top += HEIGHTS[row.panels[0].kind]


def headline(row: Row, number: int, top: int) -> Json:
    place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place}


def place(row: Row, number: int, top: int) -> Json:
    """Where a panel stands: all of a row side by side, equally wide."""
    width = WIDTH // len(row.panels)
    height = HEIGHTS[row.panels[number].kind]
    return {"h": height, "w": width, "x": number * width, "y": top}


def picture(panel: Panel, number: int) -> Json:
    """A panel, but for its place."""
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            target(query, letter) for letter, query in zip(LETTERS, panel.queries, strict=False)
        ],
        "fieldConfig": {"defaults": field(panel), "overrides": []},
        "options": options(panel),
    }


def target(query: Query, letter: str) -> Json:
    return {"refId": letter, "expr": of_installation(query.expr), "legendFormat": query.legend}


def of_installation(expr: str) -> str:
    """An expression about the chosen installation alone, whatever it names."""
    return METRIC.sub(chosen, expr)


def chosen(metric: re.Match[str]) -> str:
    """A metric with the labels of the installation, before its own."""
    own = f", {metric['labels']}" if metric["labels"] else ""
    return f"{metric['name']}{{{INSTALLATION}{own}}}"


def field(panel: Panel) -> Json:
    common: Json = {"unit": panel.unit, "min": 0}
    if panel.kind == "stat":
        return common
    drawn = {"lineWidth": 1, "fillOpacity": 40 if panel.stacked else 5, "showPoints": "never"}
    stacking = {"mode": "normal" if panel.stacked else "none"}
    return common | {"custom": drawn | {"stacking": stacking}}


def options(panel: Panel) -> Json:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
