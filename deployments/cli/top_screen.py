"""Draws the overview of `florence top`: two columns that fit 80 characters by 24 lines."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

COLUMNS = (
    ("traffic", "queue", "engine", "stages", "webhooks", "retries_per_s"),
    ("cpu", "store", "keys", "autoscaling"),
)
SHARES = ("busy", "fill", "model")
BAD = ("dead", "500", "503")
UNITS = ("_per_s", "_s", "_seconds", "_bytes")
Numbers = Mapping[str, Any]


def draw(shown: Numbers, title: str, trouble: str = "") -> RenderableType:
    """The whole screen; `trouble` is why the numbers are out of date."""
    trouble = trouble or ("the store is away" if shown["store"]["is_up"] is False else "")
    grid = Table.grid(*(Column(ratio=1) for _ in COLUMNS), expand=True, padding=(0, 2, 0, 0))
    grid.add_row(*(Group(*(b for n in names for b in block(n, shown[n]))) for names in COLUMNS))
    head = f"  {title}  last {shown['seconds']:.0f} s  "
    text = Text.assemble(("florence top", "bold"), head, (trouble, "bold red"), no_wrap=True)
    return Group(text, grid)


def block(name: str, values: Numbers) -> Iterator[RenderableType]:
    """A part of the overview: its plain numbers, and a line or a table for each mapping in it."""
    groups = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in values.items() if key not in groups and key != "is_up"}
    if groups and not plain:
        yield table(name, groups)
        return
    yield line(name, plain, "bold cyan")
    for key, group in groups.items():
        is_table = any(isinstance(value, Mapping) for value in group.values())
        if any(group.values()):
            yield table(key, group) if is_table else line(key, group)


def line(name: str, values: Numbers, style: str = "dim") -> Text:
    """Numbers after their names, bad ones first; of rates by a label only those above zero."""
    is_rate = name.endswith("_per_s")
    items = [each for each in values.items() if each[1] or not is_rate]
    text = Text.assemble((title_of(name), style), no_wrap=style == "dim", overflow="ellipsis")
    for key, value in sorted(items, key=lambda each: (each[0] not in BAD, is_rate and -each[1])):
        style = "bold red" if key in BAD and value else ""
        text.append(f"  {title_of(key).lower()} {cell(name if is_rate else key, value)}", style)
    return text


def table(name: str, rows: Mapping[str, Numbers]) -> Table:
    headers = list(next(iter(rows.values())))[:4]
    shown = Table(box=None, expand=True, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column(Text(title_of(name), "bold cyan"), no_wrap=True, ratio=1)
    for header in headers:
        shown.add_column(Text(title_of(header).lower(), "dim"), justify="right", no_wrap=True)
    for key, row in rows.items():
        shown.add_row(escape(key), *(cell(header, row.get(header)) for header in headers))
    return shown


def title_of(key: str) -> str:
    """`retries_per_s` as `Retries`, `per_s` as `rate`."""
    name = next((key.removesuffix(unit) for unit in UNITS if key.endswith(unit)), key)
    return name.capitalize() if key != "per_s" else "rate"


def cell(key: str, value: float | None) -> str:
    """A number in few characters, in the unit that its key names."""
    if value is None:
        return "–"
    if key in SHARES:
        return f"{value:.0%}"
    if key.endswith("per_s"):
        return f"{cell('', value)}/s"
    if key.endswith(("_s", "_seconds")):
        return f"{value * 1000:.3g} ms" if 0 < value < 1 else f"{value:,.3g} s"
    if key.endswith("_bytes"):
        return f"{value / 1e6:,.0f} MB"
    return f"{value:,.1f}" if value < 100 and value % 1 else f"{value:,.0f}"
