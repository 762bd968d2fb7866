"""What a simulation came to: decisions, replicas, GPU hours, waiting."""

from collections.abc import Sequence

import numpy as np

from loadtest.plan.simulation import Course, Decision

FIVE_MINUTES_S = 300.0


def table(course: Course) -> dict[str, str]:
    answered = [request for request in course.requests if request.is_answered]
    up = [snapshot.up for snapshot in course.snapshots]
    changes = direction_changes(course.decisions)
    most = most_within(changes, FIVE_MINUTES_S)
    return {
        "requests": f"{len(course.requests):,}",
        "failed or unanswered": f"{len(course.requests) - len(answered):,}",
        "waiting, p50, p95, longest": spread([request.waited_s for request in answered]),
        "latency, p50, p95, longest": spread([request.latency_s for request in answered]),
        "replicas, least, mean, most": f"{min(up)}, {course.up_s / course.ended_s:.1f}, {max(up)}",
        "a replica computes": f"{course.busy_s / max(course.up_s, 1):.0%} of its time",
        "sequences in a busy batch": f"{course.sequence_s / max(course.busy_s, 1e-9):.1f}",
        "GPU hours": f"{course.gpu_s / 3600:.2f} in {course.ended_s / 3600:.2f} h",
        "changes of direction": f"{len(changes)}, at most {most} in 5 min",
    }


def spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return ", ".join(f"{each:.2f} s" for each in np.percentile(seconds, (50, 95, 100)))


def direction_changes(decisions: Sequence[Decision]) -> list[float]:
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
