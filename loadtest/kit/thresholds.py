"""What decides the exit code: each bound against its figure."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.kit.amounts import shown_ratio, shown_s, shown_share
from loadtest.kit.analysis import Analysis
from loadtest.kit.scenarios import INF, Bounds


@dataclass(frozen=True)
class Figure:
    """Something that can be bounded: the bound's name, its title, its value and how it is shown."""

    bound: str
    title: str
    value: Callable[[Analysis], float]
    shown: Callable[[float], str]


FIGURES = (
    Figure("p50_s", "p50", lambda a: a.latency.p50, shown_s),
    Figure("p95_s", "p95", lambda a: a.latency.p95, shown_s),
    Figure("p99_s", "p99", lambda a: a.latency.p99, shown_s),
    Figure("error_rate", "errors", lambda a: a.error_rate, shown_share),
    Figure("refused_rate", "refused (429)", lambda a: a.refused_rate, shown_share),
    Figure("drift", "drift, last tenth over first", lambda a: a.drift, shown_ratio),
    Figure("lag_s", "generator's lag, p99", lambda a: a.lag.p99, shown_s),
)


@dataclass(frozen=True)
class Verdict:
    """A threshold and what was measured, ready to be read."""

    title: str
    bound: str
    value: str
    is_kept: bool

    @property
    def word(self) -> str:
        """What came of it."""
        return "ok" if self.is_kept else "missed"


def judge(analysis: Analysis, bounds: Bounds) -> list[Verdict]:
    """One verdict for every bound that asks for something.

    What could not be measured is missed: nobody may take silence for success.
    """
    asked = [(figure, getattr(bounds, figure.bound)) for figure in FIGURES]
    return [verdict(figure, bound, analysis) for figure, bound in asked if bound < INF]


def verdict(figure: Figure, bound: float, analysis: Analysis) -> Verdict:
    """One bound against its figure; a comparison with what is not a number is false."""
    value = figure.value(analysis)
    shown = figure.shown(value) if value == value else "not measured"
    return Verdict(figure.title, f"≤ {figure.shown(bound)}", shown, value <= bound)
