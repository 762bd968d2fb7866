"""What decides the exit code: each threshold against what was measured."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.scenarios import INF, Thresholds
from loadtest.units import shown_s

LAG_S = 0.1  # p99, from which the summary warns


@dataclass(frozen=True)
class Measured:
    """The figures of a run that can be bounded; not a number where there is none.

    Latencies are those of good answers, in seconds from their scheduled arrival. An arrival that
    no worker reported counts as failed.
    """

    num_planned: int
    num_good: int
    num_refused: int
    elapsed_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    drift: float
    lag_s: float

    @property
    def refused_rate(self) -> float:
        """Answered with 429, of all arrivals."""
        return self.num_refused / self.num_planned

    @property
    def error_rate(self) -> float:
        """Neither good nor refused, of all arrivals."""
        return (self.num_planned - self.num_good - self.num_refused) / self.num_planned


@dataclass(frozen=True)
class Verdict:
    title: str
    bound: str
    value: str
    is_kept: bool


ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("p50_s", "p50", shown_s),
    ("p95_s", "p95", shown_s),
    ("p99_s", "p99", shown_s),
    ("error_rate", "errors", lambda share: f"{100 * share:.3g} %"),
    ("refused_rate", "refused (429)", lambda share: f"{100 * share:.3g} %"),
    ("drift", "drift, last tenth over first", lambda ratio: f"×{ratio:.2f}"),
    ("lag_s", "generator's lag, p99", shown_s),
)


def judge(measured: Measured, thresholds: Thresholds) -> list[Verdict]:
    """One verdict for every threshold that asks for something.

    What could not be measured is missed: silence is no success.
    """
    found = []
    for name, title, shown in ROWS:
        bound, value = getattr(thresholds, name), getattr(measured, name)
        if bound < INF:
            text = shown(value) if value == value else "not measured"
            found.append(Verdict(title, f"≤ {shown(bound)}", text, value <= bound))
    return found


def summary(scenario: str, measured: Measured, verdicts: list[Verdict]) -> str:
    """Lines for a person: the counts, and a row for each threshold."""
    missed = ", ".join(each.title for each in verdicts if not each.is_kept)
    rate = measured.num_good / measured.elapsed_s
    lines = [
        f"{scenario}: {f'missed {missed}' if missed else 'ok'}",
        f"good answers: {measured.num_good} of {measured.num_planned}, {rate:.3g} per second",
    ]
    for each in verdicts:
        word = "ok" if each.is_kept else "MISSED"
        lines.append(f"  {each.title:30} {each.bound:>12} {each.value:>14}  {word}")
    if measured.lag_s > LAG_S:
        lines.append("The generator fell behind its own schedule: give it --processes 2 or more.")
    return "\n".join(lines)
