"""One drill: a fault, its repair, and the conditions afterwards."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx2
from rich.table import Table

from tests.chaos.clients import APP
from tests.chaos.counts import LoadCounts
from tests.chaos.installation import Installation
from tests.chaos.load import load, until

RECOVERY_S = 240.0
ANSWER_S = 120.0
ENDING_S = 120.0


class Drill:
    """A part breaks, stays broken for `away_s` seconds, and is repaired.

    `what` says it in the table.
    """

    what: ClassVar[str]
    away_s: float = 0.0

    def strike(self, installation: Installation) -> None:
        """Break it."""
        raise NotImplementedError

    def mend(self, installation: Installation) -> None:
        """Repair it as an operator does; most parts repair themselves."""

    def is_over(self, installation: Installation) -> bool:
        """Whether the part works again."""
        return installation.is_whole()

    def complaints(self, installation: Installation, counts: LoadCounts) -> list[str]:
        """Complaints other than failed requests."""
        return [] if len(counts.answers) == 1 else ["the answers differ"]


@dataclass(frozen=True)
class DrillResult:
    """The result of a drill; times in seconds."""

    drill: str
    counts: LoadCounts
    recovered_s: float
    complaints: list[str] = field(default_factory=list)

    @property
    def is_passed(self) -> bool:
        """Whether no request failed and there is no complaint."""
        return not self.counts.final and not self.complaints


def perform(
    drill: Drill, installation: Installation, num_pairs: int = 4, seconds: float = 0.0
) -> DrillResult:
    """Break and repair a part under load of at least `seconds`, by pairs of clients."""
    started = time.monotonic()
    with load(installation.target, num_pairs) as counts:
        complaints = unanswered(counts, num_pairs)
        began = time.monotonic()
        complaints += break_and_mend(drill, installation)
        whole_s = time.monotonic() - began
        complaints += unanswered(counts, num_pairs)
        time.sleep(max(0.0, started + seconds - time.monotonic()))
    recovered_s = max(whole_s, counts.last_failure - began)
    complaints += [*lost(installation, counts), *drill.complaints(installation, counts)]
    return DrillResult(drill.what, counts, recovered_s, complaints)


def unanswered(counts: LoadCounts, num_pairs: int) -> list[str]:
    """A complaint unless runs and jobs are answered that begin from now on."""
    # A client begins another only after an answer, so this is at least one answer for each pair.
    runs, queued = counts.runs + 2 * num_pairs, counts.queued + 2 * num_pairs
    try:
        until(lambda: counts.runs >= runs and counts.queued >= queued, ANSWER_S, "no answers")
    except TimeoutError as error:
        return [str(error)]
    return []


def break_and_mend(drill: Drill, installation: Installation) -> list[str]:
    """A complaint when the part is not repaired in time."""
    try:
        drill.strike(installation)
        time.sleep(drill.away_s)
        drill.mend(installation)
        until(lambda: drill.is_over(installation), RECOVERY_S, "not mended")
    except TimeoutError as error:
        return [str(error)]
    return []


def lost(installation: Installation, counts: LoadCounts) -> list[str]:
    """Complaints about acknowledged jobs without a result."""
    missing = set(counts.acknowledged)
    headers = {"Authorization": f"Key {installation.target.key}"}
    with httpx2.Client(headers=headers, timeout=30, trust_env=False) as http:

        def all_done() -> bool:
            missing.difference_update([id_ for id_ in missing if is_done(http, installation, id_)])
            return not missing

        try:
            until(all_done, ENDING_S, "not all are done")
        except TimeoutError:
            return [f"{len(missing)} acknowledged requests are lost"]
    return []


def is_done(http: httpx2.Client, installation: Installation, id_: str) -> bool:
    """Whether a job has its result."""
    return http.get(f"{installation.target.url}/queue{APP}/requests/{id_}").status_code == 200


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


def row_of(result: DrillResult) -> tuple[str, ...]:
    """The cells of one drill."""
    counts = result.counts
    return (
        result.drill,
        str(counts.runs),
        str(counts.queued),
        summary(counts.raw),
        summary(counts.final),
        f"{counts.longest_s:.1f}",
        f"{result.recovered_s:.1f}",
        verdict(result),
    )


def verdict(result: DrillResult) -> str:
    """`passed`, or the reasons of the failure."""
    return "passed" if result.is_passed else "; ".join(["FAILED", *result.complaints])


def summary(failures: Counter[str]) -> str:
    """How many failed, and the three most common failures."""
    whats = ", ".join(f"{number} × {what}" for what, number in failures.most_common(3))
    return f"{failures.total()} ({whats})" if failures else "0"


def table(results: Sequence[DrillResult]) -> Table:
    """The table for a person."""
    shown = Table(*COLUMNS)
    for result in results:
        shown.add_row(*row_of(result))
    return shown


def write(results: Sequence[DrillResult], file: Path) -> None:
    """The same as Markdown."""
    cells = [COLUMNS, tuple("---" for _ in COLUMNS), *map(row_of, results)]
    lines = ["| " + " | ".join(each) + " |" for each in cells]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
