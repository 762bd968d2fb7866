"""What a report says, in text: the HTML page and the Markdown summary show the same tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from loadtest.bench.figures import machine, today
from loadtest.bench.processes import Cost
from loadtest.kit.amounts import shown_s, shown_share
from loadtest.kit.analysis import OUTSIDE, Analysis, Spread
from loadtest.kit.plan import Plan
from loadtest.kit.thresholds import Verdict

Row = tuple[str, ...]
CALLS: Row = ("call", "arrivals", "good", "refused", "failed", "p50", "p95", "p99", "longest")
STAGES: Row = ("stage", "mean", "p50", "p95", "longest")
OUTSIDE_STAGES = "outside the stages"  # network, proxies, the Ingress, polls
BEHIND_S = 0.1  # of the generator's lag, from which the report warns


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others are figures."""

    title: str
    head: Row
    rows: Sequence[Row]


@dataclass(frozen=True)
class Spent:
    """Processor seconds of the service during the run, idle work included."""

    model_s: float
    others_s: float

    @staticmethod
    def between(before: Cost | None, after: Cost | None) -> "Spent | None":
        """What was used between two readings; unknown of a service elsewhere."""
        if before is None or after is None:
            return None
        return Spent(after.inside_since(before), after.outside_since(before))


class Document:
    """The words and tables of one run."""

    def __init__(
        self,
        plan: Plan,
        analysis: Analysis,
        verdicts: Sequence[Verdict],
        spent: Spent | None = None,
    ) -> None:
        self.plan = plan
        self.analysis = analysis
        self.verdicts = verdicts
        self._spent = spent

    @property
    def is_kept(self) -> bool:
        """Whether every threshold was."""
        return all(verdict.is_kept for verdict in self.verdicts)

    @property
    def title(self) -> str:
        """The scenario, and what came of it."""
        missed = [verdict.title for verdict in self.verdicts if not verdict.is_kept]
        return f"{self.plan.scenario}: " + (f"missed {', '.join(missed)}" if missed else "ok")

    @property
    def facts(self) -> str:
        """What was done, where and when."""
        plan = self.plan
        images = f"images of {plan.images}" if plan.images else f"{plan.num_images} drawn images"
        return (
            f"{plan.row.summary[0].upper()}{plan.row.summary[1:]}: {plan.pattern} arrivals, "
            f"{plan.rate:g}/s for {shown_s(plan.duration_s)}, {images}, seed {plan.seed}, "
            f"against {plan.url} on {today()}. The generator ran on {machine()}."
        )

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the figures."""
        lag, lost, repeated = self.analysis.lag, self.analysis.num_lost, self.analysis.num_repeated
        told = []
        if lag.p99 > BEHIND_S:
            told.append(
                f"The generator fell behind its own schedule: it sent 1 % of the requests more "
                f"than {shown_s(lag.p99)} late, and one {shown_s(lag.most)} late. These waits "
                "are part of the latencies; use more --processes or workers."
            )
        if lost:
            told.append(
                f"Workers were lost: {lost} arrivals are unaccounted for, and count failed."
            )
        if repeated:
            told.append(f"{repeated} webhooks came more than once, which receivers must expect.")
        return told

    @property
    def thresholds(self) -> Table:
        """Each threshold, its bound, its value and what came of it."""
        rows = [(each.title, each.bound, each.value, each.word) for each in self.verdicts]
        return Table("Thresholds", ("threshold", "bound", "value", "result"), rows)

    @property
    def totals(self) -> Table:
        """How much there was of everything."""
        found = self.analysis
        rows = [
            ("arrivals", f"{found.num_planned}", f"{found.arrival_rate:.2f}/s"),
            ("good answers", f"{len(found.good)}", f"{found.good_rate:.2f}/s"),
            ("refused (429)", f"{found.num_refused}", shown_share(found.refused_rate)),
            ("failed", f"{found.num_failed}", shown_share(found.error_rate)),
        ]
        return Table("Totals", ("", "number", "rate"), [*rows, *self._cost()])

    def _cost(self) -> list[Row]:
        """Processor time of the service, where it is the kit's own, and of it for a good answer."""
        if self._spent is None or not self.analysis.good:
            return []
        named = (("model", self._spent.model_s), ("all else", self._spent.others_s))
        num = len(self.analysis.good)
        return [(f"CPU, {n}", shown_s(s), f"{shown_s(s / num)} each") for n, s in named]

    @property
    def calls(self) -> Table:
        """Each kind of call."""
        rows = [call(kind, found) for kind, found in self.analysis.kinds().items()]
        return Table("Latency from the scheduled arrival", CALLS, rows)

    @cached_property
    def stages(self) -> list[Table]:
        """Where the time went, for each kind of call whose answers say it."""
        kinds = self.analysis.kinds().items()
        return [split(kind, stages) for kind, each in kinds if (stages := each.stages())]

    @property
    def errors(self) -> Table:
        """What went wrong, the most frequent first."""
        rows = [(reason, f"{count}") for reason, count in self.analysis.errors.most_common()]
        return Table("Errors", ("error", "number"), rows)


def call(kind: str, found: Analysis) -> Row:
    """A row of the table of calls."""
    counts = (len(found.records), len(found.good), found.num_refused, found.num_failed)
    spread = found.latency
    times = (spread.p50, spread.p95, spread.p99, spread.most)
    return (kind, *map(str, counts), *map(time, times))


def split(kind: str, stages: dict[str, Spread]) -> Table:
    """The stages of a kind of call."""
    rows = [
        (OUTSIDE_STAGES if name == OUTSIDE else name, *map(time, times(spread)))
        for name, spread in stages.items()
    ]
    return Table(kind, STAGES, rows)


def times(spread: Spread) -> tuple[float, ...]:
    """What the table of stages shows of each."""
    return spread.mean, spread.p50, spread.p95, spread.most


def time(value: float) -> str:
    """A time, or a dash for none."""
    return shown_s(value) if value == value else "–"
