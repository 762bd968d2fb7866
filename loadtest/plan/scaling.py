"""What Ray Serve lays around a policy: factors, delays and bounds, as in its version 2.60.

Written down a second time because the simulation runs in virtual time and without Ray; a test
holds it to Serve's own functions.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

EPSILON_S = 1e-6  # Serve's own

Policy = Callable[[Any], tuple[float, dict[str, Any]]]


@dataclass(frozen=True)
class Scaling:
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

    def get_target_ongoing_requests(self) -> float:
        """As the policy asks for it."""
        return self.target_ongoing_requests

    def bounded(self, replicas: int) -> int:
        """Within the least and the most."""
        return max(self.min_replicas, min(self.max_replicas, replicas))


@dataclass(frozen=True, slots=True)
class Context:
    """What a policy is told, under Serve's names."""

    deployment_name: str
    config: Scaling
    current_num_replicas: int
    target_num_replicas: int
    total_num_requests: float
    total_queued_requests: float
    aggregated_metrics: Mapping[str, Mapping[Any, float]]


class Delays:
    """A change is made when it has been wanted for so long, without a break."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
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
        scaling = self._scaling
        if direction > 0:
            return scaling.upscale_delay_s
        to_zero_s = scaling.downscale_to_zero_delay_s
        return to_zero_s if given == 1 and to_zero_s is not None else scaling.downscale_delay_s


class Scaler:
    """A policy with all that Serve lays around it."""

    def __init__(self, scaling: Scaling, policy: Policy) -> None:
        self._scaling = scaling
        self._policy = policy
        self._delays = Delays(scaling)

    def decide(self, context: Context, now: float) -> int:
        """The replicas to have from now on."""
        return self._scaling.bounded(self._unbounded(context, now))

    def _unbounded(self, context: Context, now: float) -> int:
        current, given = context.current_num_replicas, context.target_num_replicas
        if current == 0 and context.total_num_requests > 0:  # the policy is not even asked
            return max(math.ceil(self._scaling.upscaling_factor), given)
        wanted = self._scaled(self._policy(context)[0], current)
        if current == 0 and wanted > 0:
            return wanted
        return self._delays.decide(max(0, wanted), given, now)

    def _scaled(self, wanted: float, current: int) -> int:
        """`wanted`, or so much of the way there as the factors let it go."""
        if current == 0:
            return math.ceil(wanted)
        scaling, missing = self._scaling, wanted - current
        factor = scaling.upscaling_factor if missing > 0 else scaling.downscaling_factor
        scaled = math.ceil(current + factor * missing)
        is_stuck = math.ceil(wanted) < current and scaled == current
        return scaled - 1 if is_stuck else scaled
