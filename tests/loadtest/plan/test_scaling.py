"""The delays, factors, bounds and means of the simulation are those of Ray Serve itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve import autoscaling_policy
from ray.serve._private.common import TimeStampedValue
from ray.serve._private.metrics_utils import time_weighted_average
from ray.serve.autoscaling_policy import _apply_autoscaling_config, _apply_delay_logic
from ray.serve.config import AutoscalingConfig

from loadtest.plan.clock import Clock
from loadtest.plan.serve_scaling import (
    AutoscalingValues,
    MetricMean,
    PolicyContext,
    ScalingDelays,
    SimulatedScaler,
)

counts = st.integers(0, 6)
gaps = st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0])
delays = st.sampled_from([0.0, 0.3, 2.0, 5.0])
factors = st.sampled_from([0.25, 0.5, 1.0, 1.7])
scalings = st.builds(
    AutoscalingValues,
    min_replicas=st.integers(0, 2),
    max_replicas=st.integers(2, 6),
    upscale_delay_s=delays,
    downscale_delay_s=delays,
    downscale_to_zero_delay_s=st.none() | delays,
    upscaling_factor=factors,
    downscaling_factor=factors,
)


@dataclass(frozen=True)
class Recorded(AutoscalingValues):
    """A number that is recorded as often as is said, and reported each second."""

    every_s: float = 1.0
    metrics_interval_s: float = 1.0
    look_back_period_s: float = 12.0

    @property
    def record_s(self) -> float:
        """Seconds between two records."""
        return self.every_s


def as_serve_has_it(scaling: AutoscalingValues) -> AutoscalingConfig:
    """The same values in Serve's own class."""
    return AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        initial_replicas=scaling.min_replicas,
        target_ongoing_requests=scaling.target_ongoing_requests,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
        downscale_to_zero_delay_s=scaling.downscale_to_zero_delay_s,
        upscaling_factor=scaling.upscaling_factor,
        downscaling_factor=scaling.downscaling_factor,
    )


@given(scaling=scalings, wishes=st.lists(st.tuples(gaps, counts), max_size=40), first=counts)
def test_a_change_waits_as_long_as_in_serve(
    scaling: AutoscalingValues, wishes: list[tuple[float, int]], first: int
) -> None:
    """Any wishes, at any times, are granted when Serve's delays grant them."""
    config, ours = as_serve_has_it(scaling), ScalingDelays(scaling)
    now, expected, found = 100.0, first, first
    state: dict[str, Any] = {}
    for gap_s, wanted in wishes:
        now += gap_s
        expected, state = _apply_delay_logic(wanted, expected, config, state, _now=now)
        found = ours.decide(wanted, found, now)
        assert found == expected


@given(
    scaling=scalings,
    course=st.lists(st.tuples(gaps, counts, counts, st.booleans()), max_size=40),
    first=counts,
)
@settings(deadline=None)
def test_a_policy_is_wrapped_as_in_serve(
    scaling: AutoscalingValues, course: list[tuple[float, int, int, bool]], first: int
) -> None:
    """Cold starts, factors and delays: the same replicas from the same policy, tick by tick.

    The bounds are laid over what Serve's wrapper says, as its controller does.
    """
    clock: Any = SimpleNamespace(now=100.0)
    time = SimpleNamespace(time=lambda: clock.now)
    wish: Any = SimpleNamespace(replicas=0)

    def policy(context: Any) -> tuple[float, dict[str, Any]]:
        return wish.replicas, {}

    serves = _apply_autoscaling_config(policy)
    ours = SimulatedScaler(scaling, policy)
    config = as_serve_has_it(scaling)
    given_there = given_here = scaling.bounded(first)
    state: Mapping[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoscaling_policy, "time", time)
        for gap_s, wish.replicas, up, is_asked in course:
            clock.now += gap_s
            requests = 1.0 if is_asked else 0.0
            given: Any = SimpleNamespace(
                config=config,
                policy_state=dict(state),
                current_num_replicas=up,
                target_num_replicas=given_there,
                total_num_requests=requests,
            )
            wanted, state = serves(given)
            given_there = scaling.bounded(wanted)
            context = PolicyContext("Inference", scaling, up, given_here, requests, 0.0, {})
            given_here = ours.decide(context, clock.now)
            assert given_here == given_there


@given(
    values=st.lists(st.floats(0, 100), min_size=1, max_size=60),
    record_s=st.sampled_from([0.4, 0.96, 1.0]),
    late_s=st.floats(0.001, 0.9),
)
def test_a_mean_is_taken_as_in_serve(values: list[float], record_s: float, late_s: float) -> None:
    """The mean by time of the notes of the look-back, the last one to hold until now."""
    clock = Clock()
    left = iter(values)
    noted: list[TimeStampedValue] = []

    def read() -> float:
        value = next(left, values[-1])
        noted.append(TimeStampedValue(clock.now, value))
        return value

    metric = MetricMean(clock, Recorded(every_s=record_s), read)
    clock.at(record_s * len(values), lambda: None)
    while clock.now < record_s * len(values):
        clock.step()
    metric.push()
    pushed_at, clock.now = clock.now, clock.now + late_s
    kept = [note for note in noted if note.timestamp > pushed_at - 12.0]
    last_s = clock.now - kept[-1].timestamp
    assert metric.mean() == pytest.approx(time_weighted_average(kept, last_window_s=last_s))


def test_nothing_is_known_before_the_first_report() -> None:
    """The policy's input lacks a replica that has just started."""
    metric = MetricMean(Clock(), Recorded(), lambda: 3.0)
    assert metric.mean() is None
