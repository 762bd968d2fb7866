"""What the policy promises, with the simulation as the instrument: production's own class, and the
values of serve_config.yaml.

The machine is slower than any card, so that the load of two replicas is few requests.
"""

from pathlib import Path

import pytest

from loadtest.plan.question import Answer, Question, answer, speed_of
from loadtest.plan.simulation import Decision

SLOW = Question(step_ms="10+1", prefill_ms="180", tokens="60:0.8", duration="40m")
MEAN_TOKENS = 82.6  # of the lognormal with 60 in the middle
CAPACITY = speed_of(SLOW)[0].images_per_s(32, MEAN_TOKENS, 4)  # of a replica whose slots are full
SOON_S = 5.0


def asked(**options: object) -> Answer:
    """A simulation on the slow machine."""
    return answer(Question(**{**vars(SLOW), **options}))


@pytest.mark.parametrize("seed", range(8))
def test_a_burst_is_answered_with_a_decision_within_five_seconds(seed: int) -> None:
    """Whatever the phases of reading, fetching and deciding, over an idle service."""
    found = asked(rate=0.0, burst=("300@60",), duration="2m", max=4, seed=seed).outcome
    assert found.first_up_s is not None
    assert found.first_up_s <= SOON_S


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_busy_service_decides_as_soon(seed: int) -> None:
    """A steady load before the burst does not hide it."""
    rate = 0.5 * CAPACITY
    found = asked(rate=rate, burst=("300@60",), duration="2m", max=4, seed=seed)
    assert [decision for decision in found.course.decisions if decision.at_s < 60] == []
    assert found.outcome.first_up_s is not None
    assert found.outcome.first_up_s <= SOON_S


@pytest.mark.slow
@pytest.mark.parametrize("size", [40, 60, 100])
@pytest.mark.parametrize("queued", [0, 1], ids=["runs", "queued"])
def test_a_small_burst_is_decided_on_as_soon(size: int, queued: int, tmp_path: Path) -> None:
    """Also where all of it is in the boxes at once, and no backlog tells of it."""
    trace = tmp_path / "trace.csv"
    times = sorted([*range(120), *(60 + number / 1000 for number in range(size))])
    trace.write_text("".join(f"{second},80,{queued}\n" for second in times))
    found = asked(trace=trace, max=4)
    assert found.course.decisions[0].at_s == pytest.approx(60 + SOON_S / 2, abs=SOON_S / 2)


def test_a_service_without_a_replica_wakes_for_its_queue() -> None:
    """With none at all, the policy's reading of the queue starts one."""
    found = asked(rate=0.0, burst=("40@60",), duration="2m", min=0)
    first = found.course.decisions[0]
    assert (first.before, first.at_s - 60 <= SOON_S) == (0, True)
    assert found.outcome.answered == 40


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.5, 0.85, 0.95, 1.1, 1.5, 1.9, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_steady_load_turns_the_policy_once_in_five_minutes(load: float, seed: int) -> None:
    """Poisson arrivals of so many replicas' capacity, also around one and two of them."""
    found = asked(rate=load * CAPACITY, seed=seed)
    assert found.outcome.turns_in_5_min <= 1
    assert found.outcome.answered == found.outcome.requests


@pytest.mark.slow
def test_a_load_that_goes_takes_its_replicas_along() -> None:
    """Nobody is kept for nothing: after a burst all but the fewest are given back, to the node."""
    found = asked(rate=0.0, burst=("300@0",), duration="1h", max=3, node_start=30.0)
    last = found.course.moments[-1]
    assert (last.target, last.up, last.nodes) == (1, 1, 1)
    assert found.outcome.gpu_hours < 2.5


def test_the_same_seed_gives_the_same_course() -> None:
    """And another gives another."""
    first, second, other = (
        asked(rate=CAPACITY, duration="5m", seed=seed).course for seed in (1, 1, 2)
    )
    assert first.moments == second.moments
    assert first.decisions == second.decisions
    assert first.moments != other.moments


def test_all_hours_of_all_nodes_are_paid() -> None:
    """With no scaling at all, the GPU hours are the time, and the cost is their price."""
    found = asked(rate=1.0, duration="10m", min=2, max=2, price=3.0).outcome
    assert found.gpu_hours == pytest.approx(2 * found.hours)
    assert found.cost == pytest.approx(3.0 * found.gpu_hours)
    assert found.cost_per_1000 == pytest.approx(1000 * found.cost / found.answered)


def test_a_synchronous_request_is_given_up_in_time() -> None:
    """With no node for longer than its deadline, it fails; a queued one waits and is answered."""
    late = {"rate": 0.5, "duration": "1m", "min": 0, "node_start": 300.0}
    queued = asked(**late, queued=1.0).outcome
    sync = asked(**late, queued=0.0).outcome
    assert (queued.failed, queued.answered) == (0, queued.requests)
    assert (sync.failed, sync.answered) == (sync.requests, 0)


def test_decisions_lie_within_the_bounds() -> None:
    """However long the queue is."""
    decisions: list[Decision] = asked(rate=0.0, burst=("2000@10",), max=5).course.decisions
    assert max(decision.after for decision in decisions) == 5
    assert min(decision.after for decision in decisions) >= 1
