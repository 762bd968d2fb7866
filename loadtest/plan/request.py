"""The requests of a simulation: at random or in bursts, with lognormal answer lengths."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isnan, nan

import numpy as np

LONGEST = 1024  # tokens of an answer


@dataclass(eq=False, slots=True)
class SimulatedRequest:
    """Times in seconds of virtual time; NaN until they come.

    `tokens` is the length of its answer; a queued request goes through the durable queue.
    A run that has not begun at its `deadline` fails.
    """

    arrived: float
    tokens: int
    is_queued: bool
    deadline: float = inf
    began: float = nan
    ended: float = nan
    has_failed: bool = False

    @property
    def has_begun(self) -> bool:
        return not isnan(self.began)

    @property
    def is_answered(self) -> bool:
        return not isnan(self.ended)

    @property
    def waited_s(self) -> float:
        return self.began - self.arrived

    @property
    def latency_s(self) -> float:
        return self.ended - self.arrived


def poisson(rate: float, duration_s: float, random: np.random.Generator) -> list[float]:
    """Times of arrivals at random, `rate` a second on average."""
    times = random.uniform(0, duration_s, random.poisson(rate * duration_s))
    return [float(time) for time in np.sort(times)]


def requests_at(
    times: Iterable[tuple[float, bool]],
    tokens: tuple[float, float],
    deadline_s: float,
    random: np.random.Generator,
) -> list[SimulatedRequest]:
    """A request for each (time, is_queued), in order.

    `tokens` are the median of the answer lengths and the spread of their logarithm; a run that
    has not begun after `deadline_s` fails.
    """
    ordered = sorted(times)
    median, spread = tokens
    lengths = np.clip(np.rint(random.lognormal(np.log(median), spread, len(ordered))), 1, LONGEST)
    return [
        SimulatedRequest(at_s, int(length), is_queued, np.inf if is_queued else at_s + deadline_s)
        for (at_s, is_queued), length in zip(ordered, lengths, strict=True)
    ]
