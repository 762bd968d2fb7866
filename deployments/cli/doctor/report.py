"""Shows what was found: a line for each check, as it comes, or JSON; says the exit code."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import typer
from rich.console import Console
from rich.text import Text

from deployments.cli.doctor.check import Check, Finding, findings
from deployments.cli.doctor.verdict import Kind

MARKS = {Kind.OK: "✓", Kind.WARN: "!", Kind.FAIL: "✗", Kind.SKIP: "–"}
STYLES = {Kind.OK: "green", Kind.WARN: "yellow", Kind.FAIL: "bold red", Kind.SKIP: "dim"}


def report(checks: Sequence[Check], as_json: bool) -> int:
    """Make all checks and show them; 1 when something failed."""
    found = findings(checks)
    shown = as_lines(found) if as_json else drawn(found, max(len(each.name) for each in checks))
    return int(sum(finding.failed for finding in shown) > 0)  # all, not up to the first


def as_lines(found: Iterable[Finding]) -> Iterator[Finding]:
    """Each as a line of JSON."""
    for finding in found:
        verdict = finding.verdict
        told = {"check": finding.check, "verdict": verdict.kind, "said": verdict.said}
        typer.echo(json.dumps(told | {"remedy": verdict.remedy or None}, ensure_ascii=False))
        yield finding


def drawn(found: Iterable[Finding], width: int) -> Iterator[Finding]:
    """Each as a line for people, and a tally below."""
    console = Console()
    counts: Counter[Kind] = Counter()
    for finding in found:
        console.print(line(finding, width), soft_wrap=True)
        counts[finding.verdict.kind] += 1
        yield finding
    console.print(Text(tally(counts), "bold"), soft_wrap=True)


def line(finding: Finding, width: int) -> Text:
    """A check in one line: mark, name, what was seen, and the remedy."""
    verdict = finding.verdict
    style = STYLES[verdict.kind]
    text = Text.assemble((f"{MARKS[verdict.kind]} {verdict.kind:<4}  ", style))
    text.append(f"{finding.check:<{width}}  ", "bold").append(verdict.said)
    return text.append(f" → {verdict.remedy}", style) if verdict.remedy else text


def tally(counts: Counter[Kind]) -> str:
    """How many of each."""
    return ", ".join(f"{counts[kind]} {kind}" for kind in Kind if counts[kind])
