"""What came of the drills, for a person and as Markdown."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from loadtest.drills.drill import Outcome

COLUMNS = (
    "drill",
    "runs",
    "queued",
    "calls that failed",
    "requests failed after fal's retries",
    "longest wait, s",
    "recovered after, s",
    "verdict",
)


def row(outcome: Outcome) -> tuple[str, ...]:
    """The cells of one drill."""
    tally = outcome.tally
    return (
        outcome.drill,
        str(tally.runs),
        str(tally.queued),
        told(tally.raw),
        told(tally.final),
        f"{tally.longest_s:.1f}",
        f"{outcome.recovered_s:.1f}",
        verdict(outcome),
    )


def verdict(outcome: Outcome) -> str:
    """Passed, or of what it failed."""
    return "passed" if outcome.is_passed else "; ".join(["FAILED", *outcome.complaints])


def told(failures: Counter[str]) -> str:
    """How many, and of what."""
    whats = ", ".join(f"{number} × {what}" for what, number in failures.most_common(3))
    return f"{failures.total()} ({whats})" if failures else "0"


def table(outcomes: Sequence[Outcome]) -> Table:
    """The table for a person."""
    shown = Table(*COLUMNS)
    for outcome in outcomes:
        shown.add_row(*row(outcome))
    return shown


def write(outcomes: Sequence[Outcome], file: Path) -> None:
    """The same as Markdown."""
    cells = [COLUMNS, tuple("---" for _ in COLUMNS), *map(row, outcomes)]
    lines = ["| " + " | ".join(each) + " |" for each in cells]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
