"""Figures of a run, from its records alone. Knows nothing of how they are shown or judged.

Latencies are those of good answers; an arrival without one counts in a rate, never as quick.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loadtest.kit.record import Outcome, Record

OUTSIDE = "outside"
TENTH = 0.1
MIN_TENTH = 5  # answers in a tenth of the run, below which it says nothing of drift
NAN = float("nan")


@dataclass(frozen=True)
class Spread:
    """How values lie, in seconds."""

    mean: float
    p50: float
    p95: float
    p99: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """The spread of some values; not a number where there are none."""
        if not values:
            return Spread(NAN, NAN, NAN, NAN, NAN)
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        return Spread(float(np.mean(values)), float(p50), float(p95), float(p99), max(values))


class Analysis:
    """The figures of some records.

    Args:
        num_planned: arrivals that should have been made, more than the records when some are lost.
        num_repeated: webhooks that came again, which is allowed.
    """

    def __init__(
        self,
        records: Sequence[Record],
        num_planned: int,
        duration_s: float,
        num_repeated: int = 0,
    ) -> None:
        self.records = records
        self.num_repeated = num_repeated
        self.num_planned = num_planned
        self.duration_s = duration_s

    @cached_property
    def good(self) -> list[Record]:
        """Those with a good answer."""
        return self._with(Outcome.OK)

    @property
    def num_refused(self) -> int:
        """Those that the service was too busy for."""
        return len(self._with(Outcome.REFUSED))

    @property
    def num_failed(self) -> int:
        """Those that failed, and those that no worker has told of."""
        return len(self._with(Outcome.FAILED)) + self.num_lost

    @property
    def num_lost(self) -> int:
        """Arrivals that were planned and of which no worker has told."""
        return max(0, self.num_planned - len(self.records))

    @property
    def error_rate(self) -> float:
        """Failed, of all arrivals."""
        return self.num_failed / max(1, self.num_planned)

    @property
    def refused_rate(self) -> float:
        """Refused, of all arrivals."""
        return self.num_refused / max(1, self.num_planned)

    @cached_property
    def latency(self) -> Spread:
        """Of good answers, from their scheduled arrivals."""
        return Spread.of([record.latency_s for record in self.good])

    @cached_property
    def lag(self) -> Spread:
        """How late the generator sent what was due."""
        return Spread.of([record.lag_s for record in self.records])

    @property
    def arrival_rate(self) -> float:
        """Arrivals per second of the schedule."""
        return self.num_planned / self.duration_s

    @property
    def good_rate(self) -> float:
        """Good answers per second, until the last one."""
        end = max((record.end_s for record in self.good), default=0.0)
        return len(self.good) / max(end, self.duration_s)

    @property
    def drift(self) -> float:
        """The median of the last tenth over that of the first; not a number for too few."""
        first = self._median(lambda at: at < TENTH * self.duration_s)
        last = self._median(lambda at: at >= (1 - TENTH) * self.duration_s)
        return last / first

    @property
    def errors(self) -> "Counter[str]":
        """What went wrong, and how often."""
        told = Counter(r.error for r in self.records if r.outcome is Outcome.FAILED)
        return told + Counter({"no worker has told of it": self.num_lost})

    def kinds(self) -> dict[str, "Analysis"]:
        """The same for each kind of call, those of which there are most first."""
        counts = Counter(record.kind for record in self.records)
        return {kind: self._of_kind(kind) for kind, _ in counts.most_common()}

    def stages(self) -> dict[str, Spread]:
        """The server's stages in their order, and what is outside of them."""
        split = [record for record in self.good if record.stages]
        names = list(dict.fromkeys(name for record in split for name in record.stages))
        spreads = {n: Spread.of([r.stages.get(n, 0.0) for r in split]) for n in names}
        return spreads | ({OUTSIDE: Spread.of([r.outside_s for r in split])} if split else {})

    def _of_kind(self, kind: str) -> "Analysis":
        records = [record for record in self.records if record.kind == kind]
        return Analysis(records, len(records), self.duration_s)

    def _with(self, outcome: Outcome) -> list[Record]:
        return [record for record in self.records if record.outcome is outcome]

    def _median(self, is_in: Callable[[float], bool]) -> float:
        found = [record.latency_s for record in self.good if is_in(record.at_s)]
        return float(np.median(found)) if len(found) >= MIN_TENTH else NAN
