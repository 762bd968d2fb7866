"""The engine's policy: which sequences begin when, by a clock that the test sets."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.florence.scheduler import FIRST_GUESS, GROW_AFTER, LengthForecast, Scheduler

MAX_WAIT_S = 2.0


@dataclass(order=True)
class Waiting:
    """A sequence that came at second `arrived`; the smallest priority goes first."""

    priority: int
    number: int
    arrived: float = field(compare=False, default=0.0)
    num_tokens: float = field(compare=False, default=1.0)


def scheduler(*, waiting: int = 0, **limits: Any) -> Scheduler[Waiting]:
    """Eight at a time, four of them begun together, and sequences 0, 1, … that came at second 0."""
    chosen: dict[str, Any] = {
        "max_batch_size": 8,
        "prefill_batch_size": 4,
        "max_wait_s": MAX_WAIT_S,
        "max_queue": 100,
        "max_queue_tokens": 1000.0,
    }
    made: Scheduler[Waiting] = Scheduler(**chosen | limits)
    for number in range(waiting):
        made.add(Waiting(0, number))
    return made


def numbers(found: list[Waiting]) -> list[int]:
    """The numbers of those that begin."""
    return [each.number for each in found]


@pytest.mark.parametrize(
    ("waiting", "num_running", "expected"),
    [
        (0, 0, []),
        (4, 0, [0, 1, 2, 3]),
        (6, 0, [0, 1, 2, 3]),
        (4, 4, [0, 1, 2, 3]),
        (4, 8, []),
    ],
)
def test_a_full_prefill_batch_begins_at_once(
    waiting: int, num_running: int, expected: list[int]
) -> None:
    """As soon as so many wait and so many places are free; never more than are free."""
    assert numbers(scheduler(waiting=waiting).schedule(num_running, 0.0)) == expected


def test_the_others_begin_next() -> None:
    """What does not fit into the first prefill batch stays."""
    policy = scheduler(waiting=6)
    assert numbers(policy.schedule(0, 0.0)) == [0, 1, 2, 3]
    assert numbers(policy.schedule(4, MAX_WAIT_S)) == []
    assert numbers(policy.schedule(4, 2 * MAX_WAIT_S)) == [4, 5]
    assert len(policy) == 0


@pytest.mark.parametrize("waiting", [1, 3])
def test_an_idle_engine_waits_from_the_first_arrival(waiting: int) -> None:
    """Fewer than a prefill batch begin when the first has waited for others long enough."""
    policy = scheduler(waiting=waiting)
    assert policy.schedule(0, MAX_WAIT_S - 0.1) == []
    assert numbers(policy.schedule(0, MAX_WAIT_S)) == list(range(waiting))


def test_what_came_while_the_engine_was_busy_has_waited_already() -> None:
    """When the batch is empty, the wait counts from the arrival."""
    policy = scheduler(waiting=1)
    assert policy.schedule(8, 5.0) == []
    assert numbers(policy.schedule(0, 5.1)) == [0]


def test_in_a_running_batch_the_wait_begins_with_a_free_place() -> None:
    """Fewer than a prefill batch begin when they could have for long enough."""
    policy = scheduler(waiting=2)
    assert policy.schedule(8, 10.0) == []
    assert policy.schedule(7, 11.0) == []
    assert policy.schedule(6, 11.0 + MAX_WAIT_S - 0.1) == []
    assert numbers(policy.schedule(6, 11.0 + MAX_WAIT_S)) == [0, 1]


def test_the_wait_begins_anew_for_the_next() -> None:
    """One that could have begun and left, and those that have begun, shorten no other's wait."""
    policy = scheduler(waiting=1)
    assert policy.schedule(4, 0.0) == []
    assert policy.remove(Waiting(0, 0))
    assert policy.schedule(4, 1.0) == []
    policy.add(Waiting(0, 1))
    assert policy.schedule(4, 5.0) == []
    assert numbers(policy.schedule(4, 5.0 + MAX_WAIT_S)) == [1]
    policy.add(Waiting(0, 2))
    assert policy.schedule(5, 8.0) == []


@pytest.mark.parametrize(
    ("waiting", "now", "expected"),
    [(0, 0.0, None), (1, 0.5, MAX_WAIT_S - 0.5), (3, 9.0, 0.0), (4, 0.0, 0.0), (9, 0.0, 0.0)],
)
def test_an_idle_engine_sleeps_until_something_can_begin(
    waiting: int, now: float, expected: float | None
) -> None:
    """For ever when none waits, not at all when a prefill batch does."""
    assert scheduler(waiting=waiting).sleep_s(now) == expected


def test_the_smallest_priority_goes_first_then_the_first_to_come() -> None:
    """Whatever the order of arrival."""
    policy = scheduler()
    for number, priority in enumerate((5, 1, 0, 1, 0)):
        policy.add(Waiting(priority, number))
    assert numbers(policy.schedule(0, 0.0)) == [2, 4, 1, 3]


def test_one_that_leaves_frees_a_place() -> None:
    """One that waits can be removed, once; no other moves."""
    policy = scheduler(waiting=3)
    assert policy.remove(Waiting(0, 1))
    assert not policy.remove(Waiting(0, 1))
    assert numbers(policy.schedule(0, MAX_WAIT_S)) == [0, 2]
    assert not policy.remove(Waiting(0, 0))


@pytest.mark.parametrize(
    ("waiting", "num_tokens", "expected"),
    [
        (2, 1.0, True),
        (3, 1.0, False),  # by number
        (2, 8.0, True),
        (2, 8.1, False),  # by tokens
        (0, 99.0, True),  # into an empty queue any one may
    ],
)
def test_the_queue_is_limited_by_number_and_by_tokens(
    waiting: int, num_tokens: float, expected: bool
) -> None:
    """Neither may be exceeded, but for one that would never fit."""
    policy = scheduler(waiting=waiting, max_queue=3, max_queue_tokens=10.0)
    assert policy.can_add(num_tokens) is expected
    assert policy.num_tokens == waiting


def test_suspects_run_one_by_one_and_alone() -> None:
    """They go before all that wait, which begin again when the last suspect has ended."""
    policy = scheduler(waiting=5)
    policy.isolate(policy.schedule(0, 0.0))
    assert len(policy) == policy.num_tokens == 5
    assert policy.sleep_s(0.0) == 0.0
    for number in range(4):
        assert policy.schedule(2, 9.0) == []
        assert numbers(policy.schedule(0, 9.0)) == [number]
        assert policy.schedule(1, 9.0) == []
    assert policy.schedule(1, 99.0) == []
    assert numbers(policy.schedule(0, 99.0)) == [4]


def test_a_suspect_can_leave() -> None:
    """One that waits to run again may go like any other."""
    policy = scheduler(waiting=4)
    policy.isolate(policy.schedule(0, 0.0))
    assert policy.remove(Waiting(0, 0))
    assert numbers(policy.schedule(0, 0.0)) == [1]


@pytest.mark.parametrize(("num_running", "expected"), [(0, None), (7, None), (8, 0)])
def test_the_first_is_blocked_when_the_batch_is_full(
    num_running: int, expected: int | None
) -> None:
    """Only then."""
    policy = scheduler(waiting=2)
    found = policy.blocked(num_running)
    assert (found and found.number) == expected
    assert scheduler().blocked(8) is None


def test_none_is_preempted_for_a_suspect() -> None:
    """It begins when all others have ended, so no place is freed for those behind it."""
    policy = scheduler(waiting=5)
    policy.isolate(policy.schedule(0, 0.0))
    assert policy.blocked(8) is None


def test_fewer_begin_at_a_time_after_too_many() -> None:
    """A prefill batch that did not fit is halved; its sequences keep their order."""
    policy = scheduler(waiting=6)
    assert policy.shrink(policy.schedule(0, 0.0))
    assert numbers(policy.schedule(0, 0.0)) == [0, 1]
    assert policy.shrink([Waiting(0, 0), Waiting(0, 1)])
    policy.add(Waiting(-1, 9))
    assert [numbers(policy.schedule(0, 0.0)) for _ in range(8)] == [
        [9],
        [0],
        [1],
        [2],
        [3],
        [4],
        [5],
        [],
    ]


def begin_often(policy: Scheduler[Waiting], times: int) -> set[int]:
    """How many begin together, of many that wait all the time."""
    found = set()
    for _ in range(times):
        while len(policy) < 8:
            policy.add(Waiting(0, 99))
        found.add(len(policy.schedule(0, 0.0)))
    return found


def test_more_begin_together_again_after_a_while() -> None:
    """Twice as many after so many batches, but never more than at first."""
    policy = scheduler(waiting=8)
    assert policy.shrink(policy.schedule(0, 0.0))
    assert policy.shrink(policy.schedule(0, 0.0))
    assert begin_often(policy, GROW_AFTER) == {1}
    assert begin_often(policy, GROW_AFTER) == {2}
    assert begin_often(policy, 3 * GROW_AFTER) == {4}


def test_one_more_failure_begins_the_while_anew() -> None:
    """And small batches, for which there were no others, prove nothing."""
    policy = scheduler(waiting=8)
    assert policy.shrink(policy.schedule(0, 0.0))
    assert begin_often(policy, GROW_AFTER - 1) == {2}
    policy.clear()
    for _ in range(9):
        policy.add(Waiting(0, 0))
        assert len(policy.schedule(0, MAX_WAIT_S)) == 1
    assert begin_often(policy, 1) == {2}
    assert policy.shrink(policy.schedule(0, 0.0))
    assert begin_often(policy, GROW_AFTER) == {2}
    assert begin_often(policy, 1) == {4}


def test_a_size_that_was_no_power_of_two_comes_back() -> None:
    """Exactly."""
    policy = scheduler(waiting=8, prefill_batch_size=3)
    assert policy.shrink(policy.schedule(0, 0.0))
    assert begin_often(policy, 9 * GROW_AFTER) == {1, 2, 3}


def test_one_that_does_not_fit_by_itself_is_left_alone() -> None:
    """There is nothing smaller to try."""
    policy = scheduler()
    assert not policy.shrink([Waiting(0, 0)])
    assert len(policy) == 0


def test_clearing_empties_the_queue() -> None:
    """All come back once, suspects too."""
    policy = scheduler(waiting=6)
    policy.isolate(policy.schedule(0, 0.0))
    assert sorted(numbers(list(policy.clear()))) == [0, 1, 2, 3, 4, 5]
    assert len(policy) == 0
    assert policy.schedule(0, 99.0) == []


@given(
    most=st.integers(1, 9),
    together=st.integers(1, 9),
    moments=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.booleans()), max_size=30),
)
def test_all_begin_once_and_in_time(
    most: int, together: int, moments: list[tuple[int, int, bool]]
) -> None:
    """Whatever comes, ends or is suspected: limits are kept, none is lost or begins twice."""
    policy = scheduler(max_batch_size=most, prefill_batch_size=min(together, most))
    came, running, ended, now = 0, 0, [], 0.0
    for arrivals, ends, is_suspicious in moments:
        now += 0.7
        for _ in range(arrivals):
            policy.add(Waiting(0, came, arrived=now))
            came += 1
        running -= min(ends, running)
        begun = policy.schedule(running, now)
        assert running + len(begun) <= most
        assert len(begun) <= together
        if is_suspicious and len(begun) > 1 and running == 0:
            policy.isolate(begun)
        else:
            running += len(begun)
            ended += numbers(begun)
    while policy.sleep_s(now) is not None:
        now += MAX_WAIT_S
        begun = policy.schedule(0, now)
        assert begun
        ended += numbers(begun)
    assert sorted(ended) == list(range(came))


def test_the_reason_of_a_batch_is_known() -> None:
    """A whole prefill batch, a wait that is over, a running batch, or suspicion."""
    policy = scheduler(waiting=6)
    policy.schedule(0, 0.0)
    assert policy.reason == "full"
    policy.schedule(4, 0.0)  # two wait for more to join with
    assert numbers(policy.schedule(4, MAX_WAIT_S)) == [4, 5]
    assert policy.reason == "joined"
    policy.add(Waiting(0, 6, arrived=10.0))
    assert numbers(policy.schedule(0, 10.0 + MAX_WAIT_S)) == [6]
    assert policy.reason == "waited"
    policy.isolate([Waiting(0, 7)])
    assert numbers(policy.schedule(0, 20.0)) == [7]
    assert policy.reason == "alone"


def test_an_unknown_task_gets_the_first_guess() -> None:
    """No answer has been seen."""
    assert LengthForecast().num_tokens("caption") == FIRST_GUESS


def test_tasks_have_forecasts_of_their_own() -> None:
    """A caption says nothing about how many boxes there are."""
    forecast = LengthForecast()
    for _ in range(100):
        forecast.add("caption", 10)
    assert forecast.num_tokens("region-proposal") == FIRST_GUESS
    assert forecast.num_tokens("caption") == pytest.approx(10, abs=1)


def test_one_strange_answer_does_not_change_much() -> None:
    """The mean moves slowly."""
    forecast = LengthForecast()
    for _ in range(100):
        forecast.add("caption", 10)
    before = forecast.num_tokens("caption")
    forecast.add("caption", 1000)
    assert forecast.num_tokens("caption") == pytest.approx(before + (1000 - before) / 20)


@given(st.lists(st.integers(1, 1024), min_size=1))
def test_a_forecast_lies_among_what_was_seen(lengths: list[int]) -> None:
    """Between the shortest and the longest, the first guess included."""
    forecast = LengthForecast()
    for length in lengths:
        forecast.add("caption", length)
    seen = [FIRST_GUESS, *lengths]
    assert min(seen) - 1e-9 <= forecast.num_tokens("caption") <= max(seen) + 1e-9
