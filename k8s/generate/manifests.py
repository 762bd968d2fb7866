"""Plain manifests for those who use kubectl alone, made of some of the chart's examples."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from k8s.generate.helm import CHART, Document, load, render

SHOWN = ("cpu-demo", "one-gpu", "autoscaled-l4")
EXAMPLES = CHART / "examples"
FOLDER = CHART.parent / "manifests"
HELMS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
ORDER = ("ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy")


class Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, block)


def manifests() -> Iterator[tuple[Path, str]]:
    for name in SHOWN:
        yield FOLDER / f"{name}.yaml", manifest(EXAMPLES / f"{name}.yaml")


def manifest(example: Path) -> str:
    """The objects of an example, without Helm's words and without the test."""
    kept = [each for each in render(load(example.read_text())) if not is_hook(each)]
    kept.sort(key=lambda each: ORDER.index(each["kind"]) if each["kind"] in ORDER else len(ORDER))
    text = yaml.dump_all(map(plain, kept), Dumper=Dumper, sort_keys=False, width=1000)
    return f"# Made of k8s/chart/examples/{example.name}, which says what it needs.\n{text}"


def is_hook(document: Document) -> bool:
    """Whether Helm runs it, and does not install it."""
    return "helm.sh/hook" in document["metadata"].get("annotations", {})


def plain(document: Document) -> Document:
    """An object without the labels that say that Helm keeps it."""
    labels = document["metadata"]["labels"]
    kept = {name: value for name, value in labels.items() if name not in HELMS}
    return document | {"metadata": document["metadata"] | {"labels": kept}}
