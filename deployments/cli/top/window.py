"""Two scrapes and the time between them: rates, levels, quantiles.

A counter that has become smaller has begun anew, with its replica: all that it has is new.
None stands for what nobody tells, which is something else than zero.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from deployments.cli.top.exposition import Scrape, Series


class Window:
    """What happened between two scrapes, and how things stood at the later one."""

    def __init__(self, before: Scrape, after: Scrape) -> None:
        self._before = before
        self._after = after

    @property
    def seconds(self) -> float:
        """The time between them."""
        return self._after.at - self._before.at

    def rate(self, name: str, **where: str) -> float | None:
        """The increase of a counter per second, over all series with these labels."""
        found = [more for _, more in self._increases(name, where)]
        return sum(found) / self.seconds if found and self.seconds > 0 else None

    def rates(self, name: str, label: str) -> dict[str, float]:
        """The same by the values of one label."""
        found: dict[str, float] = defaultdict(float)
        for labels, more in self._increases(name, {}):
            found[labels.get(label, "")] += more / self.seconds
        return dict(found)

    def level(
        self, name: str, of: Callable[[Iterable[float]], float] = sum, **where: str
    ) -> float | None:
        """What a gauge stands at: the sum over all series, or their maximum."""
        found = [value for labels, value in self._samples(name) if has(labels, where)]
        return of(found) if found else None

    def levels(self, name: str, label: str) -> dict[str, float]:
        """The same by the values of one label; of several who tell the same, the greatest."""
        found: dict[str, float] = {}
        for labels, value in self._samples(name):
            key = labels.get(label, "")
            found[key] = max(value, found.get(key, value))
        return found

    def count(self, name: str) -> int:
        """How many series tell of a gauge above zero: one for each replica."""
        return sum(value > 0 for _, value in self._samples(name))

    def quantile(self, share: float, name: str, **where: str) -> float | None:
        """The value of a histogram below which this share of the new ones lies."""
        buckets: dict[float, float] = defaultdict(float)
        for labels, more in self._increases(f"{name}_bucket", where):
            buckets[float(labels["le"])] += more
        return quantile(share, sorted(buckets.items()))

    def _samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for _, (found, labels), value in self._after.series():
            if found == name:
                yield dict(labels), value

    def _increases(
        self, name: str, where: dict[str, str]
    ) -> Iterator[tuple[dict[str, str], float]]:
        """Of a source that is new, nothing is known of what happened between."""
        for source, series, value in self._after.series():
            if series[0] == name and source in self._before.sources:
                labels = dict(series[1])
                if has(labels, where):
                    yield labels, self._increase(source, series, value)

    def _increase(self, source: str, series: Series, value: float) -> float:
        before = self._before.sources[source].get(series, 0.0)
        return value - before if value >= before else value


def has(labels: dict[str, str], where: dict[str, str]) -> bool:
    """Whether the labels are those that are asked for."""
    return all(labels.get(label) == value for label, value in where.items())


def quantile(share: float, buckets: list[tuple[float, float]]) -> float | None:
    """Out of cumulative counts by upper bound, straight within a bucket; None without any.

    What lies beyond the last bound is told as that bound.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for upper, count in buckets:
        if count >= rank and count > below:
            if math.isinf(upper):
                return lower
            return lower + (upper - lower) * (rank - below) / (count - below)
        lower, below = upper, count
    return lower
