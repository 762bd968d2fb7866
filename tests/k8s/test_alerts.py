"""Every alert fires when it should and is silent otherwise, and says what to do."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.k8s import promtool
from tests.k8s.promtool import ALERTS, Rule, alerts
from tests.test_docs import ROOT, commands, options_of

RUNBOOKS = ROOT / "k8s" / "runbooks"
TESTS = Path(__file__).with_name("alerts")
PAGE = ROOT / "docs" / "metrics.md"
NAMES = [file.stem for file in ALERTS]
KEYS = ["alert", "expr", "for", "labels", "annotations"]
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
AGGREGATED = re.compile(r"\b(?:sum|max|min|avg|count)\b(?! by \(namespace, florence\b)")

each_alert = pytest.mark.parametrize("alert", alerts(), ids=NAMES)
each_name = pytest.mark.parametrize("name", NAMES)


def test_there_are_alerts() -> None:
    """Else the tests below would say nothing."""
    assert len(NAMES) > 10


@each_alert
def test_an_alert_says_all(alert: Rule) -> None:
    """In a file of its own, which has its name, and in one order."""
    assert list(alert) == KEYS
    assert alert["alert"] in NAMES
    assert alert["alert"].startswith("Florence")
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert list(alert["annotations"]) == ["summary", "description"]


def test_files_are_called_as_their_alerts() -> None:
    """So the runbook, whose name the chart makes of the alert's, is there."""
    assert [alert["alert"] for alert in alerts()] == NAMES


@each_alert
def test_an_alert_separates_installations(alert: Rule) -> None:
    """It adds nothing up over two of them in one Prometheus, and says which it is about."""
    assert AGGREGATED.findall(alert["expr"]) == []
    assert "{{ $labels.namespace }}/{{ $labels.florence }}" in alert["annotations"]["description"]


def test_every_alert_has_a_runbook_and_a_test() -> None:
    """And there are no others."""
    assert sorted(file.stem for file in RUNBOOKS.glob("*.md")) == NAMES
    assert sorted(file.stem for file in TESTS.glob("*.yaml")) == NAMES


def test_promtool_takes_the_alerts(tmp_path: Path) -> None:
    """All together, without a warning."""
    assert promtool.check(promtool.write_rules(tmp_path, alerts())) == ""


@each_name
def test_an_alert_fires_when_it_should(tmp_path: Path, name: str) -> None:
    """And not otherwise, as the test of its name says."""
    assert outcome(tmp_path, name, alerts()) == ""


@each_name
def test_a_test_notices_an_alert_that_never_fires(tmp_path: Path, name: str) -> None:
    """So each test has a case in which its alert fires."""
    assert "FAILED" in outcome(tmp_path, name, changed(name, expr="vector(1) > 2"))


@each_name
def test_a_test_notices_an_alert_that_always_fires(tmp_path: Path, name: str) -> None:
    """So each test has a case in which its alert is silent."""
    metric = re.findall(r"ray_\w+", next(a["expr"] for a in alerts() if a["alert"] == name))[0]
    always = {"expr": f"group by (namespace, florence) ({metric} or up)", "for": "0s"}
    assert "FAILED" in outcome(tmp_path, name, changed(name, **always))


@each_name
def test_a_test_notices_an_alert_that_does_not_wait(tmp_path: Path, name: str) -> None:
    """So each test has a short peak without an alert."""
    assert "FAILED" in outcome(tmp_path, name, changed(name, **{"for": "0s"}))


@each_name
def test_a_runbook_has_its_parts(name: str) -> None:
    """The same in each, none empty."""
    parts = re.split(r"^## (.+)\n", (RUNBOOKS / f"{name}.md").read_text(), flags=re.MULTILINE)
    assert parts[0].startswith(f"# {name}\n")
    assert parts[1::2] == HEADINGS
    assert all(part.strip() for part in parts[2::2])


@each_name
def test_the_commands_of_a_runbook_exist(name: str) -> None:
    """Those of `florence`, with their options; and its links lead somewhere."""
    text = (RUNBOOKS / f"{name}.md").read_text()
    for words in commands(text):
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given - options_of(words) == set(), words
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (RUNBOOKS / link).exists()] == []


@each_name
def test_the_queries_of_a_runbook_are_promql(tmp_path: Path, name: str) -> None:
    """Each line of each block."""
    blocks = re.findall(r"```promql\n(.*?)```", (RUNBOOKS / f"{name}.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    rules = [{"record": f"runbook:{number}", "expr": line} for number, line in enumerate(lines)]
    assert promtool.check(promtool.write_rules(tmp_path, rules)) == ""


@each_name
def test_the_page_of_metrics_lists_the_alert(name: str) -> None:
    """With a link to what to do."""
    assert f"| [{name}](../k8s/runbooks/{name}.md) | " in PAGE.read_text()


def changed(name: str, **changes: str) -> list[Rule]:
    """All alerts, one of which is another."""
    return [{**alert, **(changes if alert["alert"] == name else {})} for alert in alerts()]


def outcome(folder: Path, name: str, rules: Sequence[Rule]) -> str:
    """What promtool says of the test of one alert, with these rules."""
    promtool.write_rules(folder, rules)
    return promtool.test(Path(shutil.copy(TESTS / f"{name}.yaml", folder)))
