"""What is printed as it is measured, the same values for a file, and the time for all of it."""

import sys
import time
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

GAP = "  "


class PrintedReport:
    """The values so far; `is_right` says whether every judgement was."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.is_right = True

    def say(self, line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def keep(self, name: str, value: Any, text: str) -> None:
        self.values[name] = value
        self.say(f"{name}: {text}")

    def judge(self, name: str, text: str, is_right: bool) -> None:
        self.is_right = self.is_right and is_right
        self.keep(name, text, text if is_right else f"{text}  WRONG")

    def table(self, name: str, rows: Sequence[Row]) -> None:
        self.values[name] = list(rows)
        lines = [list(row) for row in rows[:1]]  # the names of the columns
        lines += [[shown(value) for value in row.values()] for row in rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        self.say(f"\n{name}")
        for line in lines:
            cells = zip(line, widths, strict=True)
            self.say(GAP + GAP.join(cell.rjust(width) for cell, width in cells))


def shown(value: Any) -> str:
    """A number with three or four digits, and a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return str(value)


class Budget:
    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds
        self.skipped: list[str] = []

    @property
    def left_s(self) -> float:
        """Seconds that are left, zero when it is used up."""
        return max(0.0, self._end - time.perf_counter())

    def allows(self, name: str, seconds: float = 0.0) -> bool:
        """Whether something that takes so long still fits; if not, it is noted."""
        if self.left_s > seconds:
            return True
        self.skipped.append(name)
        return False
