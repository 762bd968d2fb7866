"""Figures of a benchmark: kept in a file with the machine and the day, and shown as a table."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

FOLDER = Path("out/bench")


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write the figures, with the day and the machine, to out/bench/NAME.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{name}.json"
    today = datetime.now(UTC).date().isoformat()
    file.write_text(json.dumps({"date": today, "machine": machine(), **figures}, indent=2) + "\n")
    return file


def machine() -> str:
    """The processor and how many of its cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor, cores = next(names, platform.machine()), len(os.sched_getaffinity(0))
    return f"{cores} cores, {processor}, Python {platform.python_version()}"


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def latencies(seconds: Sequence[float], wall_s: float) -> dict[str, float]:
    """How often a second, and percentiles in ms."""
    found = {f"p{each}_ms": 1000 * percentile(seconds, each) for each in (50, 95, 99)}
    return {"per_s": len(seconds) / wall_s, **found}


def table(
    title: str,
    columns: Mapping[str, Mapping[str, float]],
    rows: Mapping[str, tuple[str, int]],
) -> "Table":
    """A row for each title in `rows`, which has the figure's key and its digits."""
    from rich.table import Table  # not there where only a GPU is measured

    shown = Table(title)
    for name in columns:
        shown.add_column(name, justify="right")
    for name, (key, digits) in rows.items():
        cells = [f"{c[key]:.{digits}f}" if key in c else "" for c in columns.values()]
        if any(cells):
            shown.add_row(name, *cells)
    return shown
