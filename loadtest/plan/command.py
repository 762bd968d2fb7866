"""`florence plan` behind its options: simulate, and show a table, charts, JSON or a picture."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.errors import SetupError
from loadtest.plan import picture
from loadtest.plan.chart import chart
from loadtest.plan.question import Answer, Question, answer
from loadtest.plan.table import table

COMPARED = {
    "rate": float,
    "gpu": str,
    "tokens": str,
    "min": int,
    "max": int,
    "target": float,
    "slots": int,
    "upscale-delay": float,
    "downscale-delay": float,
    "node-start": float,
    "replica-start": float,
    "idle-timeout": float,
    "queued": float,
    "seed": int,
}


def show(
    question: Question, out: Path | None, compare: str | None, as_json: bool, console: Console
) -> None:
    """Answer a question, or a row of them.

    Raises:
        SetupError: an option is wrong.
    """
    if out is not None:
        picture.check(out)
    if out is not None and compare is not None:
        raise SetupError("--out draws one simulation: leave --compare away")
    asked = compared(question, compare) if compare else {"": question}
    with console.status("Simulating …"):
        answers = {name: answer(each) for name, each in asked.items()}
    if as_json:
        console.file.write(told(answers) + "\n")
    else:
        tell(answers, console)
    if out is not None:
        picture.write(next(iter(answers.values())), out)


def compared(question: Question, text: str) -> Mapping[str, Question]:
    """A question for each value in `NAME=VALUE,VALUE…`.

    Raises:
        SetupError: it cannot be read.
    """
    name, _, values = text.partition("=")
    read = COMPARED.get(name)
    if read is None:
        raise SetupError(f"--compare {text}: write NAME=VALUE,VALUE with one of {names()}")
    field = name.replace("-", "_")
    try:
        chosen = [read(value.strip()) for value in values.split(",")]
    except ValueError:
        raise SetupError(f"--compare {text}: the values of {name} are numbers") from None
    if any(isinstance(v, float | int) and (v < 0 or not isfinite(v)) for v in chosen):
        raise SetupError(f"--compare {text}: no value can be negative")
    return {f"{name} {value}": with_(question, field, value) for value in chosen}


def with_(question: Question, field: str, value: Any) -> Question:
    """A question with another value."""
    changed: Mapping[str, Any] = {field: value}
    return replace(question, **changed)


def names() -> str:
    """What can be compared."""
    return ", ".join(COMPARED)


def tell(answers: Mapping[str, Answer], console: Console) -> None:
    """Print the table, for a single answer charts too, and what all of it is computed from."""
    console.print(table({name: each.outcome for name, each in answers.items()}))
    first = next(iter(answers.values()))
    if len(answers) == 1:
        console.print(chart(first.course, min(console.width, 100)), highlight=False, markup=False)
    seen: dict[str, list[str]] = {}
    for each in answers.values():
        for name, text in each.assumed.items():
            seen.setdefault(name, [])
            seen[name] += [text] if text not in seen[name] else []
    for name, texts in seen.items():
        console.print(f"{name}: {'; '.join(texts)}", style="dim", highlight=False, markup=False)


def told(answers: Mapping[str, Answer]) -> str:
    """The answers as JSON: one, or a list of them."""
    each = [as_tree(name, one) for name, one in answers.items()]
    return json.dumps(each[0] if len(each) == 1 else each, indent=2)


def as_tree(name: str, one: Answer) -> dict[str, Any]:
    """An answer as JSON has it: the options that were given, the figures, and the course."""
    return {
        **({"compared": name} if name else {}),
        "asked": given(one.question),
        "assumed": one.assumed,
        "figures": finite(asdict(one.outcome)),
        "moments": [asdict(moment) for moment in one.course.moments],
        "decisions": [asdict(decision) for decision in one.course.decisions],
    }


def given(question: Question) -> dict[str, Any]:
    """The options that differ from what they are by themselves."""
    asked = {field.name: getattr(question, field.name) for field in fields(question)}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asked.items()
        if value != getattr(Question(), name)
    }


def finite(tree: Any) -> Any:
    """The same, with None for what is no number."""
    if isinstance(tree, dict):
        return {name: finite(value) for name, value in tree.items()}
    return None if isinstance(tree, float) and not isfinite(tree) else tree
