"""The table of values in the chart's README, between two marks."""

import json
from collections.abc import Iterator
from typing import Any

from k8s.generate.helm import CHART
from k8s.generate.values import Key, read_keys

README = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"


def readme() -> str:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{''.join(table())}{END}{after}"


def table() -> Iterator[str]:
    """Lines of the table: each leaf, and each section that has something to say."""
    yield "| value | default | meaning |\n|---|---|---|\n"
    yield from (row(key) for key in rows(read_keys()))


def rows(keys: tuple[Key, ...]) -> Iterator[Key]:
    """Sections before their keys."""
    for key in keys:
        yield key
        yield from rows(key.keys)


def row(key: Key) -> str:
    default = "" if key.keys else f"`{shown(key.default)}`"
    return (
        f"| `{'.'.join(key.path)}` | {default} | {key.description.replace('|', chr(92) + '|')} |\n"
    )


def shown(default: Any) -> str:
    """A default as one would write it; long ones by their first part."""
    text = json.dumps(default, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
