"""Helm without a cluster; the one place that knows `helm-python-sdk`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart, HelmError, lint, package

CHART = Path(__file__).parent.parent / "chart"
NOTES = "templates/NOTES.txt"
INFO = 1  # Helm's severities go on with warnings and errors
Values = Mapping[str, Any]
Document = dict[str, Any]


class Refused(Exception):
    """Helm does not take the values; the message is what an operator reads."""


def load(text: str) -> Any:
    """YAML, quickly where libyaml is there."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def texts(
    values: Values,
    name: str = "florence",
    namespace: str = "inference",
    *,
    upgrade: bool = False,
    chart: Path = CHART,
) -> dict[str, str]:
    """What each template of the chart becomes, by its path below the chart.

    Raises:
        Refused: the schema, or a check of the chart, does not take the values.
    """
    try:
        with Chart.load(chart) as loaded:
            found = loaded.render(
                dict(values),
                name=name,
                namespace=namespace,
                is_upgrade=upgrade,
                is_install=not upgrade,
            )
    except HelmError as error:
        raise Refused(str(error)) from None
    return {path.split("/", 1)[1]: text for path, text in found.items()}


def documents(rendered: Mapping[str, str]) -> list[Document]:
    """The objects in what was rendered, in the order of their templates."""
    return [
        each
        for path, text in sorted(rendered.items())
        if path != NOTES
        for each in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if each
    ]


def render(values: Values, name: str = "florence", **options: Any) -> list[Document]:
    """The objects that the chart makes of `values`.

    Raises:
        Refused: as for `texts`.
    """
    return documents(texts(values, name, **options))


def notes(values: Values, name: str = "florence", **options: Any) -> str:
    """The notes that Helm prints after an install."""
    return texts(values, name, **options)[NOTES]


def findings(values: Values, kube_version: str) -> list[str]:
    """What `helm lint --strict` has to say, above mere information."""
    report = lint(CHART, dict(values), strict=True, kube_version=kube_version)
    return [str(each["error"]) for each in report["messages"] if each["severity"] > INFO]


def merged(values: Values) -> Document:
    """The chart's defaults with `values` over them."""
    with Chart.load(CHART) as chart:
        return chart.merge_values(dict(values))


def packed(folder: Path, chart: Path = CHART) -> Path:
    """A chart as an archive in `folder`, as it is pushed to a registry."""
    return Path(package(chart, destination=folder))
