"""What Ray Serve lays around a policy: means, factors, delays and bounds, as in its version 2.60.

Written down a second time because the simulation runs in virtual time and without Ray; a test
holds it to Serve's own functions.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadtest.plan.clock import Clock

EPSILON_S = 1e-6  # Serve's own
RECORD_FACTOR = 0.2  # of the look-back: how often Serve's replicas record a number at least

PolicyFunction = Callable[[Any], tuple[float, dict[str, Any]]]


@dataclass(frozen=True)
class AutoscalingValues:
    """The values of `autoscaling_config`, under Serve's names."""

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0
    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0

    @property
    def record_s(self) -> float:
        """Seconds between two records of a number in a replica."""
        return min(self.look_back_period_s * RECORD_FACTOR, self.metrics_interval_s)

    def get_target_ongoing_requests(self) -> float:
        return self.target_ongoing_requests

    def bounded(self, replicas: int) -> int:
        return max(self.min_replicas, min(self.max_replicas, replicas))


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What a policy is given, under Serve's names."""

    deployment_name: str
    config: AutoscalingValues
    current_num_replicas: int
    target_num_replicas: int
    total_num_requests: float
    total_queued_requests: float
    aggregated_metrics: Mapping[str, Mapping[Any, float]]


class ScalingDelays:
    """A change is made when it has been wanted for its delay, without a break."""

    def __init__(self, values: AutoscalingValues) -> None:
        self._values = values
        self._direction = 0
        self._since = 0.0

    def decide(self, wanted: int, given: int, now: float) -> int:
        """The replicas to have, where `given` are asked for so far and `wanted` would be right."""
        direction = (wanted > given) - (wanted < given)
        if direction == 0:
            self._direction = 0
            return given
        if direction != self._direction:
            self._direction, self._since = direction, now
        if now - self._since + EPSILON_S < self._delay_s(direction, given):
            return given
        self._direction = 0
        is_last = given == 1  # only the last one leaves none
        return wanted if direction > 0 or is_last else max(1, wanted)

    def _delay_s(self, direction: int, given: int) -> float:
        values = self._values
        if direction > 0:
            return values.upscale_delay_s
        to_zero_s = values.downscale_to_zero_delay_s
        return to_zero_s if given == 1 and to_zero_s is not None else values.downscale_delay_s


class SimulatedScaler:
    """A policy with all that Serve lays around it."""

    def __init__(self, values: AutoscalingValues, policy: PolicyFunction) -> None:
        self._values = values
        self._policy = policy
        self._delays = ScalingDelays(values)

    def decide(self, context: PolicyContext, now: float) -> int:
        return self._values.bounded(self._unbounded(context, now))

    def _unbounded(self, context: PolicyContext, now: float) -> int:
        current, given = context.current_num_replicas, context.target_num_replicas
        if current == 0 and context.total_num_requests > 0:  # the policy is not even asked
            return max(math.ceil(self._values.upscaling_factor), given)
        wanted = self._scaled(self._policy(context)[0], current)
        if current == 0 and wanted > 0:
            return wanted
        return self._delays.decide(max(0, wanted), given, now)

    def _scaled(self, wanted: float, current: int) -> int:
        """`wanted`, or so much of the way there as the factors let it go."""
        if current == 0:
            return math.ceil(wanted)
        values, missing = self._values, wanted - current
        factor = values.upscaling_factor if missing > 0 else values.downscaling_factor
        scaled = math.ceil(current + factor * missing)
        is_stuck = math.ceil(wanted) < current and scaled == current
        return scaled - 1 if is_stuck else scaled


class MetricMean:
    """A number in a replica as Serve's controller knows it: its mean over the look-back.

    The replica records the number now and then and sends its records of the look-back at each
    metrics interval; the controller takes their mean by time, the last one to hold until now.
    """

    def __init__(self, clock: Clock, values: AutoscalingValues, read: Callable[[], float]) -> None:
        self._clock = clock
        self._look_back_s = values.look_back_period_s
        self._read = read
        self._records: list[tuple[float, float]] = []  # time, value
        self._sent: tuple[float, float, float, float] | None = None  # first, last, value, area
        interval_s = values.metrics_interval_s
        self._repeated = (
            clock.every(values.record_s, self._record, clock.now),
            clock.every(interval_s, self.push, clock.now + interval_s),
        )

    def mean(self) -> float | None:
        """What the controller takes the number for; None before the first report."""
        if self._sent is None:
            return None
        first, last, value, area = self._sent
        since_s = max(self._clock.now - last, 1e-3)  # as Serve has it where clocks differ
        return (area + value * since_s) / (last + since_s - first)

    def stop(self) -> None:
        for repeated in self._repeated:
            repeated.stop()

    def push(self) -> None:
        start = self._clock.now - self._look_back_s
        self._records = [record for record in self._records if record[0] > start]
        if self._records:
            pairs = pairwise(self._records)
            area = sum(value * (after - before) for (before, value), (after, _) in pairs)
            self._sent = (self._records[0][0], *self._records[-1], area)

    def _record(self) -> None:
        self._records.append((self._clock.now, self._read()))


def reported(means: Mapping[Any, MetricMean | None]) -> dict[Any, float]:
    """What replicas have reported of themselves, without those that have not yet."""
    known = {replica: mean.mean() for replica, mean in means.items() if mean is not None}
    return {replica: value for replica, value in known.items() if value is not None}
