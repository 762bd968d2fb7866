"""The chart and all YAML below k8s/ are well-formed, by the tools that operators run themselves."""

from pathlib import Path

import pytest
from yamllint import linter
from yamllint.config import YamlLintConfig

from k8s.generate.helm import CHART, findings
from tests.k8s.rendered import NAMES, manifests, values_of

KUBERNETES = [f"1.{minor}" for minor in range(29, 38)]
RULES = YamlLintConfig(
    "extends: default\n"
    "rules:\n"
    "  line-length: {max: 200}\n"
    "  document-start: disable\n"
    "  indentation: {indent-sequences: whatever}\n"
    "  comments: {min-spaces-from-content: 1}\n"
    "  truthy: {check-keys: false}\n"
)
WRITTEN = [
    file
    for file in manifests(CHART.parent)
    if file.parent.name != "manifests" and file.name != "serve_config.yaml"
]


@pytest.mark.parametrize(
    "file", WRITTEN, ids=lambda file: file.relative_to(CHART.parent).as_posix()
)
def test_what_people_write_is_tidy_yaml(file: Path) -> None:
    """yamllint's own rules, with longer lines."""
    assert [str(each) for each in linter.run(file.read_text(), RULES)] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", [*NAMES, "everything"])
def test_helm_finds_no_fault(name: str, version: str) -> None:
    """`helm lint --strict`, for every Kubernetes that the chart allows."""
    assert findings(values_of(name), version) == []


def test_helm_does_look() -> None:
    """A value of the wrong type is found, so that the test above can fail."""
    assert findings({"drain": {"seconds": "soon"}}, KUBERNETES[0])
