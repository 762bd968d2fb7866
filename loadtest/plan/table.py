"""The figures as a table: one column for each simulation."""

from collections.abc import Callable, Mapping
from math import isnan

from rich.table import Table

from loadtest.plan.outcome import Outcome

Show = Callable[[Outcome], str]


def seconds(value: float | None) -> str:
    """Seconds as a person reads them: milliseconds where they are few, minutes where many."""
    if value is None or isnan(value):
        return "–"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def dollars(value: float) -> str:
    """US dollars; tenths of a cent where they are few."""
    return "–" if isnan(value) else f"${value:,.2f}" if value >= 1 else f"${value:.3f}"


ROWS: Mapping[str, Show] = {
    "requests": lambda o: f"{o.requests:,}",
    "given up or unanswered": lambda o: f"{o.requests - o.answered:,}",
    "waiting p50": lambda o: seconds(o.waiting.p50),
    "waiting p95": lambda o: seconds(o.waiting.p95),
    "waiting p99": lambda o: seconds(o.waiting.p99),
    "waiting, longest": lambda o: seconds(o.waiting.max),
    "latency p50": lambda o: seconds(o.latency.p50),
    "latency p95": lambda o: seconds(o.latency.p95),
    "replicas, least · mean · most": lambda o: (
        f"{o.replicas_min} · {o.replicas_mean:.1f} · {o.replicas_max}"
    ),
    "a replica computes": lambda o: f"{o.utilisation:.0%}",
    "answers at a time, then": lambda o: f"{o.rows:.1f}",
    "GPU hours": lambda o: f"{o.gpu_hours:.2f} in {o.hours:.2f} h",
    "cost": lambda o: dollars(o.cost),
    "cost per 1,000 images": lambda o: dollars(o.cost_per_1000),
    "first decision for more": lambda o: seconds(o.first_up_s),
    "changes of direction": lambda o: f"{o.turns}, at most {o.turns_in_5_min} in 5 min",
}


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """The figures of each simulation under its name."""
    shown = Table("")
    for name in outcomes:
        shown.add_column(name, justify="right")
    for row, show in ROWS.items():
        shown.add_row(row, *(show(each) for each in outcomes.values()))
    return shown
