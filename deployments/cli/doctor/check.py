"""Runs checks one after the other, and prints what they find. No check can break the others."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import typer
from rich.console import Console
from rich.text import Text

from deployments.errors import SetupError

LIMIT_S = 30.0


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, but not for long or not well
    FAIL = "fail"
    SKIP = "skip"  # it cannot be known from here


MARKS = {Level.OK: "✓", Level.WARN: "!", Level.FAIL: "✗", Level.SKIP: "–"}
STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red", Level.SKIP: "dim"}


@dataclass(frozen=True)
class Finding:
    """The result of a check in one line, and what to do about it."""

    level: Level
    said: str
    remedy: str = ""


def ok(said: str) -> Finding:
    return Finding(Level.OK, said)


def warn(said: str, remedy: str) -> Finding:
    return Finding(Level.WARN, said, remedy)


def fail(said: str, remedy: str = "") -> Finding:
    """Not good enough. Without a remedy, `said` contains it."""
    return Finding(Level.FAIL, said, remedy)


def skip(said: str) -> Finding:
    return Finding(Level.SKIP, said)


class CheckFailed(SetupError):
    """Ends a check that cannot go on."""

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(f"{said}: {remedy}")
        self.finding = fail(said, remedy)


@dataclass(frozen=True)
class Check:
    """A named check. It is skipped when the check called `after` has failed."""

    name: str
    run: Callable[[], Finding]
    after: str = ""
    limit_s: float = LIMIT_S


def run_checks(checks: Sequence[Check]) -> Iterator[tuple[str, Finding]]:
    """The name and the finding of each check, as soon as it is done."""
    failed: set[str] = set()
    for check in checks:
        if check.after in failed:
            finding = skip(f"unknown, because {check.after} failed")
        else:
            finding = run_within(check.limit_s, check.run)
        if finding.level is Level.FAIL:
            failed.add(check.name)
        yield check.name, finding


def run_within(limit_s: float, run: Callable[[], Finding]) -> Finding:
    """The finding, or a failure after `limit_s`.

    A thread cannot be stopped: it goes on, and the command ends without it.
    """
    found: list[Finding] = []
    thread = threading.Thread(target=lambda: found.append(run_safely(run)), daemon=True)
    thread.start()
    thread.join(limit_s)
    if found:
        return found[0]
    return fail(f"no answer within {limit_s:g} s", "see whether what it asks can be reached")


def run_safely(run: Callable[[], Finding]) -> Finding:
    """The finding; an error is a failure in one line, never a traceback."""
    try:
        return run()
    except CheckFailed as error:
        return error.finding
    except SetupError as error:
        return fail(" ".join(str(error).split()))
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return fail(said, "see whether that can be read")


def report(checks: Sequence[Check], as_json: bool) -> int:
    """Run all checks and print each finding as a line; the exit code is 1 when one failed."""
    console, counts = Console(), Counter[Level]()
    width = max(len(each.name) for each in checks)
    for name, finding in run_checks(checks):
        counts[finding.level] += 1
        if as_json:
            typer.echo(json_line(name, finding))
        else:
            console.print(text_line(name, finding, width), soft_wrap=True)
    if not as_json:
        total = ", ".join(f"{counts[level]} {level}" for level in Level if counts[level])
        console.print(Text(total, "bold"), soft_wrap=True)
    return int(counts[Level.FAIL] > 0)


def json_line(name: str, finding: Finding) -> str:
    tree = {"check": name, "verdict": finding.level, "said": finding.said}
    return json.dumps(tree | {"remedy": finding.remedy or None}, ensure_ascii=False)


def text_line(name: str, finding: Finding, width: int) -> Text:
    """For people: mark, level, name, what was found, and the remedy."""
    style = STYLES[finding.level]
    text = Text.assemble((f"{MARKS[finding.level]} {finding.level:<4}  ", style))
    text.append(f"{name:<{width}}  ", "bold").append(finding.said)
    return text.append(f" → {finding.remedy}", style) if finding.remedy else text
