"""A simulation in figures: waiting, replicas, GPU hours, cost, and how calm the policy was."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from loadtest.plan.simulation import Course, Decision

CALM_S = 300.0  # in which the direction may change once


@dataclass(frozen=True)
class Spread:
    """Seconds: the mean, the middle, those that 5 % and 1 % exceed, and the longest."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Of any number of times; all are NaN when there is none."""
        if not seconds:
            return cls(*[float("nan")] * 5)
        middle = np.percentile(seconds, [50, 95, 99, 100])
        return cls(mean(seconds), *(float(each) for each in middle))


@dataclass(frozen=True)
class Outcome:
    """The figures.

    `waiting` is until the model begins, `latency` until the answer. `utilisation` is the share of
    its time in which a replica computes, `rows` how many answers it then writes. `first_up_s` is
    from the load's beginning to Serve's first decision for more replicas, None if there was none.
    """

    requests: int
    answered: int
    failed: int
    waiting: Spread
    latency: Spread
    replicas_min: int
    replicas_mean: float
    replicas_max: int
    utilisation: float
    rows: float
    hours: float
    gpu_hours: float
    cost: float
    cost_per_1000: float
    first_up_s: float | None
    decisions: int
    turns: int
    turns_in_5_min: int


def outcome(course: Course, price: float, load_from_s: float) -> Outcome:
    """What a course comes to, where a GPU costs `price` an hour and the load begins then."""
    answered = [request for request in course.requests if request.is_answered]
    gpu_hours = course.gpu_s / 3600
    cost = gpu_hours * price
    changed = turns(course.decisions)
    ups = (d.at_s for d in course.decisions if d.after > d.before and d.at_s >= load_from_s)
    first = next(ups, None)
    replicas = [moment.up for moment in course.moments]
    return Outcome(
        requests=len(course.requests),
        answered=len(answered),
        failed=sum(request.has_failed for request in course.requests),
        waiting=Spread.of([request.waited_s for request in answered]),
        latency=Spread.of([request.latency_s for request in answered]),
        replicas_min=min(replicas),
        replicas_mean=course.up_s / course.ended_s,
        replicas_max=max(replicas),
        utilisation=course.busy_s / course.up_s if course.up_s else 0.0,
        rows=course.row_s / course.busy_s if course.busy_s else 0.0,
        hours=course.ended_s / 3600,
        gpu_hours=gpu_hours,
        cost=cost,
        cost_per_1000=1000 * cost / len(answered) if answered else float("nan"),
        first_up_s=None if first is None else first - load_from_s,
        decisions=len(course.decisions),
        turns=len(changed),
        turns_in_5_min=most_within(changed, CALM_S),
    )


def turns(decisions: Sequence[Decision]) -> list[float]:
    """When Serve went the other way: fewer replicas after more, or more after fewer."""
    found, last = [], 0
    for decision in decisions:
        direction = 1 if decision.after > decision.before else -1
        if direction == -last:
            found.append(decision.at_s)
        last = direction
    return found


def most_within(times: Sequence[float], seconds: float) -> int:
    """The most of these that lie within so many seconds; `times` rise."""
    return max((sum(0 <= t - first < seconds for t in times) for first in times), default=0)
