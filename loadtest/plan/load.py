"""The requests of a simulation: at random, in bursts, with lognormal answer lengths."""

from collections.abc import Iterable

import numpy as np

from loadtest.plan.request import SimulatedRequest

LONGEST = 1024  # tokens of an answer


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
