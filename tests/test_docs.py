"""What the pages under docs/ say is what the code does."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from deployments.autoscaling import GAUGES
from deployments.cli.main import COMMANDS, load
from deployments.jobs.job import JobState
from deployments.settings import Settings
from deployments.telemetry.metrics import METRICS, Metric

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
FILES = {"queue.db", "keys.json"}  # files in the state folder, which look like settings
TEXTS = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *PAGES]
each_text = pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)

COMMAND = re.compile(
    r"(?<![\w/-])florence "
    rf"((?:{'|'.join(COMMANDS)})\b[^#`\n]*)"
)


def settings() -> set[str]:
    """The paths of all settings."""
    sections: dict[str, Any] = {n: f.annotation for n, f in Settings.model_fields.items()}
    return {f"{name}.{key}" for name, part in sections.items() for key in part.model_fields}


def commands(text: str) -> list[list[str]]:
    """Every command line of ours in `text`, as words."""
    return [shlex.split(line.replace("…", "x")) for line in COMMAND.findall(text)]


def options_of(words: list[str]) -> set[str]:
    """The options of the command that `words` begin with.

    Raises:
        KeyError: there is no such command.
    """
    command: Any = load(words[0])
    for word in words[1:]:
        if not hasattr(command, "commands"):
            break
        command = command.commands[word]
    return {name for option in command.params for name in option.opts}


@each_text
def test_every_command_exists(file: Path) -> None:
    """With all its options."""
    for words in commands(file.read_text()):
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given - options_of(words) == set(), words


def test_commands_are_found() -> None:
    """The pages do hold commands; else the test above would say nothing."""
    assert sum(len(commands(file.read_text())) for file in TEXTS) > 15


@each_text
def test_every_setting_exists(file: Path) -> None:
    """What looks like a setting of one of our sections is one."""
    sections = "|".join(Settings.model_fields)
    named = set(re.findall(rf"`((?:{sections})\.(?!py\b)[a-z_]+)", file.read_text()))
    assert named - settings() - FILES == set()


@each_text
def test_every_link_leads_somewhere(file: Path) -> None:
    """Links within the repository."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text())
    assert [target for target in targets if not (file.parent / target).exists()] == []


def test_every_page_is_linked() -> None:
    """From the index, which is linked from the README."""
    index = (ROOT / "docs" / "index.md").read_text()
    assert [page.name for page in PAGES if f"]({page.name})" not in index] == ["index.md"]
    assert "docs/index.md" in (ROOT / "README.md").read_text()


def test_the_state_diagram_has_every_state() -> None:
    """And no other."""
    diagram = (ROOT / "docs" / "queue.md").read_text().split("```")[1]
    named = set(re.findall(r"(\w+) -->|--> (\w+)", diagram))
    assert {name for pair in named for name in pair if name} == set(JobState)


RECORDED_BY = {
    "queue": "Dispatcher, Ingress",
    "webhooks": "Dispatcher, Ingress",
    "store": "Dispatcher, Ingress",
    "process": "every deployment",
    "autoscaling": "Serve's controller",
}


def metric_rows() -> list[str]:
    """The rows of the page of metrics: name, kind, labels, unit, recorded by, meaning."""
    policies = {name: Metric("gauge", help_, ("deployment",)) for name, help_ in GAUGES.items()}
    return [metric_row(name, metric) for name, metric in {**METRICS, **policies}.items()]


def metric_row(name: str, metric: Metric) -> str:
    """One of them."""
    part = name.split("_")[1]
    recorded_by = RECORDED_BY.get(part, part.capitalize())
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    units = [unit for unit in ("seconds", "bytes", "tokens") if unit in name.split("_")]
    cells = (f"`{name}`", metric.kind, labels, "".join(units) or "count", recorded_by, metric.help)
    return f"| {' | '.join(cells)} |"


def test_the_page_of_metrics_is_complete() -> None:
    """Every metric has its row, as the code declares it, in the same order."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    found = [line for line in text.splitlines() if line.startswith("| `florence_")]
    assert found == metric_rows()


def test_queries_are_about_metrics_that_exist() -> None:
    """Every name of ours on the page, in a table or in PromQL, is exported."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    names = set(re.findall(r"ray_(florence_\w+)", text))
    known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert known - METRICS.keys() - GAUGES.keys() == set()
    assert len(known) > 10
