"""A simulated replica: an image takes the encoder's pass and its tokens' steps, and no longer."""

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.plan.clock import Clock
from loadtest.plan.replica import EngineValues, SimulatedReplica, Speed
from loadtest.plan.request import SimulatedRequest

SPEED = Speed(step_s=0.010, sequence_s=0.001, image_s=0.025)
ENGINE = EngineValues(max_batch_size=4, prefill_batch_size=2, max_wait_s=0.004, turn_tokens=16)


def answered(
    arrivals: list[tuple[float, int]], engine: EngineValues = ENGINE
) -> list[SimulatedRequest]:
    """Requests of (time, tokens) after a replica has answered them all."""
    clock, done = Clock(), list[SimulatedRequest]()

    def end(request: SimulatedRequest) -> None:
        request.ended = clock.now
        done.append(request)

    replica = SimulatedReplica(clock, SPEED, engine, end)
    requests = [SimulatedRequest(at_s, tokens, is_queued=True) for at_s, tokens in arrivals]
    for request in requests:
        clock.at(request.arrived, partial(replica.add, request))
    while len(done) < len(requests):
        clock.step()
    assert replica.num_ongoing == 0
    return requests


def test_one_alone_takes_its_pass_and_its_steps() -> None:
    """And waits as long as the engine waits for others to begin with it."""
    [request] = answered([(1.0, 40)])
    assert request.waited_s == pytest.approx(ENGINE.max_wait_s)
    assert request.latency_s == pytest.approx(ENGINE.max_wait_s + 0.025 + 40 * 0.011)


def test_two_that_come_together_begin_together() -> None:
    """The pass and each step take what they take for two, and neither waits for a third."""
    first, second = answered([(1.0, 40), (1.0, 20)])
    assert first.waited_s == second.waited_s == pytest.approx(0.0, abs=1e-6)
    assert second.latency_s == pytest.approx(0.050 + 20 * 0.012)
    assert first.latency_s == pytest.approx(0.050 + 20 * 0.012 + 20 * 0.011)


def test_one_that_comes_later_joins_between_two_steps() -> None:
    """The one under way stands still while the encoder reads, then both go on."""
    first, second = answered([(0.0, 100), (0.5, 10)])
    assert 0 < second.waited_s < 0.011 + ENGINE.max_wait_s
    alone_s = ENGINE.max_wait_s + 0.025 + 100 * 0.011
    assert first.latency_s == pytest.approx(alone_s + 0.025 + 10 * 0.001)


def test_a_full_batch_answers_as_many_as_the_speed_says() -> None:
    """A long row of equal requests is answered at the rate that capacities are computed by."""
    engine = EngineValues(4, 4, 0.0, 1000)
    requests = answered([(0.0, 50)] * 200, engine)
    rate = len(requests) / max(request.ended for request in requests)
    assert rate == pytest.approx(SPEED.images_per_s(4, 50), rel=0.02)


def test_a_long_answer_is_preempted_for_those_that_wait() -> None:
    """A short one does not wait for the end of four long ones, and all are answered in full."""
    *long, short = answered([(0.0, 400)] * 4 + [(0.1, 5)])
    assert short.latency_s < 1.0
    assert min(request.latency_s for request in long) > 400 * 0.011


@given(
    arrivals=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 60)), min_size=1, max_size=30),
    engine=st.builds(
        EngineValues,
        max_batch_size=st.integers(1, 5),
        prefill_batch_size=st.integers(1, 6),
        max_wait_s=st.sampled_from([0.0, 0.004, 0.05]),
        turn_tokens=st.integers(1, 40),
    ),
)
@settings(deadline=None)
def test_every_request_is_answered_and_none_too_soon(
    arrivals: list[tuple[float, int]], engine: EngineValues
) -> None:
    """None is faster than alone, and no time is lost without reason."""
    requests = answered(arrivals, engine)
    for request in requests:
        alone_s = SPEED.image_s + request.tokens * SPEED.step(1)
        assert request.latency_s >= alone_s - 1e-6
    work_s = sum(SPEED.image_s + r.tokens * SPEED.step(1) for r in requests)
    last = max(request.arrived for request in requests)
    waits_s = (len(requests) + 1) * (engine.max_wait_s + SPEED.step(engine.max_batch_size))
    assert max(request.ended for request in requests) <= last + work_s + waits_s


def test_steps_taken_together_are_those_taken_one_by_one() -> None:
    """A request that comes and changes nothing, the batch being full, changes no other's time."""
    drawn = random.Random(0)
    some = [(drawn.uniform(0, 2), drawn.randint(5, 50)) for _ in range(12)]
    late = [(9.0, 5)]
    ends = [request.ended for request in answered(some)]
    assert [request.ended for request in answered(some + late)][:-1] == pytest.approx(ends)
