"""The policy's guarantees, with the simulation as the instrument: production's own class, and the
values of serve_config.yaml.

The machine is slower than any card, so that the load of two replicas is few requests.
"""

import itertools

import numpy as np
import pytest

from loadtest.plan.outcome import direction_changes, most_within, table
from loadtest.plan.replica import Speed
from loadtest.plan.request import poisson, requests_at
from loadtest.plan.service import deployed
from loadtest.plan.simulation import Course, Decision, Simulation

SPEED = Speed(step_s=0.010, sequence_s=0.001, image_s=0.180)
TOKENS = (60.0, 0.8)
MEAN_TOKENS = 82.6  # of the lognormal with 60 in the middle
CAPACITY = SPEED.images_per_s(32, MEAN_TOKENS)  # of a replica whose batch is full
DEADLINE_S = 120.0
SOON_S = 5.0
MINUTES_S = 60.0


def simulated(
    rate: float = 0.0,
    bursts: list[tuple[float, bool]] | None = None,
    minutes: float = 40,
    queued: bool = True,
    seed: int = 0,
    node_start_s: float = 180.0,
    **scaling: float,
) -> Course:
    """A simulation on the slow machine; `bursts` are (time, is_queued) of more requests."""
    random = np.random.default_rng(seed)
    steady = [(at_s, queued) for at_s in poisson(rate, minutes * MINUTES_S, random)]
    requests = requests_at(steady + (bursts or []), TOKENS, DEADLINE_S, random)
    service = deployed(SPEED, node_start_s, **scaling)
    return Simulation(service, requests, minutes * MINUTES_S, seed).run()


def at(second: float, size: int) -> list[tuple[float, bool]]:
    """A burst into the queue."""
    return [(second, True)] * size


def first_increase_s(course: Course, since_s: float) -> float | None:
    """Seconds from `since_s` to the first decision for more replicas; None if there was none."""
    ups = (d.at_s for d in course.decisions if d.after > d.before and d.at_s >= since_s)
    first = next(ups, None)
    return None if first is None else first - since_s


def num_answered(course: Course) -> int:
    """Requests that have their answers."""
    return sum(request.is_answered for request in course.requests)


def test_the_deployed_values_are_those_of_the_configuration() -> None:
    """What is simulated is what serve_config.yaml deploys."""
    service = deployed(SPEED)
    values = service.inference.values

    assert (values.min_replicas, values.max_replicas) == (1, 8)
    assert (values.upscale_delay_s, values.downscale_delay_s) == (2, 300)
    assert (values.metrics_interval_s, values.record_s) == (1.0, 0.4)
    assert service.replica.engine.max_batch_size == 32
    assert service.replica.max_ongoing == 96


@pytest.mark.parametrize("seed", range(8))
def test_a_burst_is_answered_with_a_decision_within_five_seconds(seed: int) -> None:
    """Whatever the phases of reading, polling and deciding, over an idle service."""
    course = simulated(bursts=at(60, 300), minutes=2, max_replicas=4, seed=seed)
    first_s = first_increase_s(course, 60)
    assert first_s is not None
    assert first_s <= SOON_S


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_busy_service_decides_as_soon(seed: int) -> None:
    """A steady load before the burst does not hide it."""
    course = simulated(0.5 * CAPACITY, at(60, 300), minutes=2, max_replicas=4, seed=seed)
    assert [decision for decision in course.decisions if decision.at_s < 60] == []
    first_s = first_increase_s(course, 60)
    assert first_s is not None
    assert first_s <= SOON_S


@pytest.mark.slow
@pytest.mark.parametrize("size", [40, 60, 100])
@pytest.mark.parametrize("queued", [False, True], ids=["runs", "queued"])
def test_a_small_burst_is_decided_on_as_soon(size: int, queued: bool) -> None:
    """Also where all of it is in the pipeline at once, and no backlog shows it."""
    times = [*map(float, range(120)), *(60 + number / 1000 for number in range(size))]
    requests = requests_at([(at_s, queued) for at_s in times], (80, 0), DEADLINE_S, random())
    course = Simulation(deployed(SPEED, max_replicas=4), requests, 120).run()
    assert course.decisions[0].at_s == pytest.approx(60 + SOON_S / 2, abs=SOON_S / 2)


def random() -> np.random.Generator:
    """Always the same."""
    return np.random.default_rng(0)


def test_a_service_without_a_replica_wakes_for_its_queue() -> None:
    """With none at all, the policy's reading of the queue starts one."""
    course = simulated(bursts=at(60, 40), minutes=2, min_replicas=0)
    first = course.decisions[0]
    assert (first.before, first.at_s - 60 <= SOON_S) == (0, True)
    assert num_answered(course) == 40


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.5, 0.85, 0.95, 1.1, 1.5, 1.9, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_steady_load_turns_the_policy_once_in_five_minutes(load: float, seed: int) -> None:
    """Poisson arrivals of so many replicas' capacity, also around one and two of them."""
    course = simulated(load * CAPACITY, seed=seed)
    assert most_within(direction_changes(course.decisions), 300) <= 1
    assert num_answered(course) == len(course.requests)


@pytest.mark.slow
def test_a_load_that_goes_takes_its_replicas_along() -> None:
    """After a burst all but the fewest are given back, down to the node."""
    course = simulated(bursts=at(0, 300), minutes=60, max_replicas=3, node_start_s=30.0)
    last = course.snapshots[-1]
    assert (last.target, last.up, last.nodes) == (1, 1, 1)
    assert course.gpu_s < 2.5 * 3600


def test_the_same_seed_gives_the_same_course() -> None:
    """And another gives another."""
    first, second, other = (simulated(CAPACITY, minutes=5, seed=seed) for seed in (1, 1, 2))
    assert first.snapshots == second.snapshots
    assert first.decisions == second.decisions
    assert first.snapshots != other.snapshots


def test_all_hours_of_all_nodes_are_paid() -> None:
    """With no scaling at all, the GPU hours are the time."""
    course = simulated(1.0, minutes=10, min_replicas=2, max_replicas=2)
    assert course.gpu_s == pytest.approx(2 * course.ended_s)
    assert table(course)["GPU hours"].startswith(f"{2 * course.ended_s / 3600:.2f} in")


def test_a_synchronous_request_is_given_up_in_time() -> None:
    """With no node for longer than its deadline, it fails; a queued one waits and is answered."""
    queued, sync = (
        simulated(0.5, minutes=1, queued=each, min_replicas=0, node_start_s=300.0)
        for each in (True, False)
    )
    assert num_answered(queued) == len(queued.requests)
    assert num_answered(sync) == 0
    assert all(request.has_failed for request in sync.requests)


def test_decisions_lie_within_the_bounds() -> None:
    """However long the queue is."""
    course = simulated(bursts=at(10, 2000), max_replicas=5)
    assert max(decision.after for decision in course.decisions) == 5
    assert min(decision.after for decision in course.decisions) >= 1


def test_a_turn_is_a_step_the_other_way() -> None:
    """Up and up again is none."""
    counts = [1, 3, 5, 4, 2, 3]
    decisions = [
        Decision(100.0 * i, before, after)
        for i, (before, after) in enumerate(itertools.pairwise(counts))
    ]
    assert direction_changes(decisions) == [200.0, 400.0]
    assert most_within([200.0, 400.0, 499.0, 900.0], 300.0) == 3
    assert most_within([200.0, 400.0, 500.0, 900.0], 300.0) == 2


def test_random_arrivals_come_at_their_rate() -> None:
    """Within what chance allows, and spread as a Poisson process is; lengths as asked for."""
    gaps = np.diff(poisson(20.0, 3600.0, random()))
    assert len(gaps) == pytest.approx(72_000, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.03)
    drawn = requests_at([(0.0, True)] * 20_000, TOKENS, DEADLINE_S, random())
    assert np.mean([request.tokens for request in drawn]) == pytest.approx(MEAN_TOKENS, rel=0.03)
