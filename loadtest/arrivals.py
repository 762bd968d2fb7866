"""When requests arrive: seconds from the start, fixed before the first one is sent.

No arrival waits for an answer (an open loop), so a slow server meets the same load as a fast one.
"""

import math
import random
from collections.abc import Callable
from enum import StrEnum

BURST_EVERY_S = 10.0
RAMP_FROM = 0.1  # of the rate, at the start of a ramp


class Pattern(StrEnum):
    """How arrivals are spread; each has the same mean rate, but for the ramp."""

    CONSTANT = "constant"  # equal gaps
    POISSON = "poisson"  # as from many independent clients
    BURST = "burst"  # those of ten seconds all at once
    RAMP = "ramp"  # the rate grows evenly, from a tenth to all of it


def arrival_times(pattern: Pattern, rate: float, duration_s: float, seed: int = 0) -> list[float]:
    """All arrivals of a run at `rate` per second, in order; the same for the same seed."""
    return GENERATORS[pattern](rate, duration_s, seed)


def constant(rate: float, duration_s: float, _seed: int) -> list[float]:
    """Equal gaps, the first at 0."""
    return [number / rate for number in range(at_least_one(rate * duration_s))]


def poisson(rate: float, duration_s: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    arrivals = []
    at = rng.expovariate(rate)
    while at < duration_s:
        arrivals.append(at)
        at += rng.expovariate(rate)
    return arrivals


def burst(rate: float, duration_s: float, _seed: int) -> list[float]:
    """Those of every ten seconds at their beginning."""
    arrivals = []
    for number in range(math.ceil(duration_s / BURST_EVERY_S)):
        at = number * BURST_EVERY_S
        arrivals += [at] * at_least_one(rate * min(BURST_EVERY_S, duration_s - at))
    return arrivals


def ramp(rate: float, duration_s: float, _seed: int) -> list[float]:
    """Gaps that shrink, so that the rate grows evenly from a tenth to all of it.

    After t seconds a*t + b*t*t/2 have arrived, which is solved for t here.
    """
    a, b = RAMP_FROM * rate, (1 - RAMP_FROM) * rate / duration_s
    num = at_least_one(a * duration_s + b * duration_s**2 / 2)
    return [(math.sqrt(a * a + 2 * b * number) - a) / b for number in range(num)]


def at_least_one(number: float) -> int:
    """`number` rounded up, but for the errors of a sum of floats; at least 1."""
    return max(1, math.ceil(round(number, 6)))


GENERATORS: dict[Pattern, Callable[[float, float, int], list[float]]] = {
    Pattern.CONSTANT: constant,
    Pattern.POISSON: poisson,
    Pattern.BURST: burst,
    Pattern.RAMP: ramp,
}
