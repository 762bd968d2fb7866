"""The engine's policy: who begins when, by a clock that the test sets."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.florence.scheduler import Schedule

PATIENCE_S = 2.0


@dataclass(order=True)
class Asked:
    """A request that came at second `arrived`; the smallest priority goes first."""

    priority: int
    number: int
    arrived: float = field(compare=False, default=0.0)
    cost: float = field(compare=False, default=1.0)


def schedule(*, waiting: int = 0, **limits: Any) -> Schedule[Asked]:
    """Eight slots, four of them begun at a time, and requests 0, 1, … that came at second 0."""
    chosen: dict[str, Any] = {
        "num_slots": 8,
        "micro_batch": 4,
        "patience_s": PATIENCE_S,
        "max_waiting": 100,
        "max_cost": 1000.0,
    }
    made: Schedule[Asked] = Schedule(**chosen | limits)
    for number in range(waiting):
        made.add(Asked(0, number))
    return made


def taken(found: list[Asked]) -> list[int]:
    """The numbers of those that begin."""
    return [asked.number for asked in found]


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
def test_a_full_micro_batch_begins_at_once(
    waiting: int, num_running: int, expected: list[int]
) -> None:
    """As soon as so many wait and so many slots are free; never more than are free."""
    assert taken(schedule(waiting=waiting).take(num_running, 0.0)) == expected


def test_the_others_begin_next() -> None:
    """What does not fit into the first micro-batch stays."""
    policy = schedule(waiting=6)
    assert taken(policy.take(0, 0.0)) == [0, 1, 2, 3]
    assert taken(policy.take(4, PATIENCE_S)) == []
    assert taken(policy.take(4, 2 * PATIENCE_S)) == [4, 5]
    assert len(policy) == 0


@pytest.mark.parametrize("waiting", [1, 3])
def test_an_idle_engine_waits_from_the_first_arrival(waiting: int) -> None:
    """Fewer than a micro-batch begin when the first has waited for others long enough."""
    policy = schedule(waiting=waiting)
    assert policy.take(0, PATIENCE_S - 0.1) == []
    assert taken(policy.take(0, PATIENCE_S)) == list(range(waiting))


def test_what_came_while_the_engine_was_busy_has_waited_already() -> None:
    """When the last answer is done, patience counts from the arrival."""
    policy = schedule(waiting=1)
    assert policy.take(8, 5.0) == []
    assert taken(policy.take(0, 5.1)) == [0]


def test_beside_others_patience_begins_with_a_free_slot() -> None:
    """Fewer than a micro-batch begin when they could have for long enough, in hope of others."""
    policy = schedule(waiting=2)
    assert policy.take(8, 10.0) == []
    assert policy.take(7, 11.0) == []
    assert policy.take(6, 11.0 + PATIENCE_S - 0.1) == []
    assert taken(policy.take(6, 11.0 + PATIENCE_S)) == [0, 1]


def test_patience_begins_anew_for_the_next() -> None:
    """One who could have begun and left, and those that have begun, shorten nobody's patience."""
    policy = schedule(waiting=1)
    assert policy.take(4, 0.0) == []
    assert policy.remove(Asked(0, 0))
    assert policy.take(4, 1.0) == []
    policy.add(Asked(0, 1))
    assert policy.take(4, 5.0) == []
    assert taken(policy.take(4, 5.0 + PATIENCE_S)) == [1]
    policy.add(Asked(0, 2))
    assert policy.take(5, 8.0) == []


@pytest.mark.parametrize(
    ("waiting", "now", "expected"),
    [(0, 0.0, None), (1, 0.5, PATIENCE_S - 0.5), (3, 9.0, 0.0), (4, 0.0, 0.0), (9, 0.0, 0.0)],
)
def test_an_idle_engine_sleeps_until_something_can_begin(
    waiting: int, now: float, expected: float | None
) -> None:
    """For ever when nobody waits, not at all when a micro-batch does."""
    assert schedule(waiting=waiting).pause_s(now) == expected


def test_the_smallest_priority_goes_first_then_the_first_to_come() -> None:
    """Whoever came when."""
    policy = schedule()
    for number, priority in enumerate((5, 1, 0, 1, 0)):
        policy.add(Asked(priority, number))
    assert taken(policy.take(0, 0.0)) == [2, 4, 1, 3]


def test_who_leaves_frees_a_place() -> None:
    """One who waits can be removed, once; nobody else moves."""
    policy = schedule(waiting=3)
    assert policy.remove(Asked(0, 1))
    assert not policy.remove(Asked(0, 1))
    assert taken(policy.take(0, PATIENCE_S)) == [0, 2]
    assert not policy.remove(Asked(0, 0))


@pytest.mark.parametrize(
    ("waiting", "cost", "expected"),
    [
        (2, 1.0, True),
        (3, 1.0, False),  # by number
        (2, 8.0, True),
        (2, 8.1, False),  # by cost
        (0, 99.0, True),  # where nobody waits, any one may
    ],
)
def test_the_room_is_limited_by_number_and_by_cost(
    waiting: int, cost: float, expected: bool
) -> None:
    """Neither may be exceeded, but for one that would never fit."""
    policy = schedule(waiting=waiting, max_waiting=3, max_cost=10.0)
    assert policy.has_room(cost) is expected
    assert policy.cost == waiting


def test_suspects_begin_one_by_one_with_nobody_beside() -> None:
    """They go before all who wait, who begin again when the last suspect is through."""
    policy = schedule(waiting=5)
    policy.isolate(policy.take(0, 0.0))
    assert len(policy) == policy.cost == 5
    assert policy.pause_s(0.0) == 0.0
    for number in range(4):
        assert policy.take(2, 9.0) == []
        assert taken(policy.take(0, 9.0)) == [number]
        assert policy.take(1, 9.0) == []
    assert policy.take(1, 99.0) == []
    assert taken(policy.take(0, 99.0)) == [4]


def test_a_suspect_can_leave() -> None:
    """Who waits to be tried again may go like any other."""
    policy = schedule(waiting=4)
    policy.isolate(policy.take(0, 0.0))
    assert policy.remove(Asked(0, 0))
    assert taken(policy.take(0, 0.0)) == [1]


@pytest.mark.parametrize(("num_running", "expected"), [(0, None), (7, None), (8, 0)])
def test_the_next_in_line_is_one_without_a_slot(num_running: int, expected: int | None) -> None:
    """The first of those who wait, when all slots are taken."""
    policy = schedule(waiting=2)
    found = policy.next_in_line(num_running)
    assert (found and found.number) == expected
    assert schedule().next_in_line(8) is None


def test_nobody_makes_room_for_a_suspect() -> None:
    """It begins when all others have ended, so no slot is freed for those behind it."""
    policy = schedule(waiting=5)
    policy.isolate(policy.take(0, 0.0))
    assert policy.next_in_line(8) is None


def test_fewer_begin_at_a_time_after_too_many() -> None:
    """A micro-batch that did not fit is halved for good; its requests keep their place."""
    policy = schedule(waiting=6)
    assert policy.shrink(policy.take(0, 0.0))
    assert taken(policy.take(0, 0.0)) == [0, 1]
    assert policy.shrink([Asked(0, 0), Asked(0, 1)])
    policy.add(Asked(-1, 9))
    assert [taken(policy.take(0, 0.0)) for _ in range(8)] == [[9], [0], [1], [2], [3], [4], [5], []]


def test_one_that_does_not_fit_by_itself_is_left_alone() -> None:
    """There is nothing smaller to try."""
    policy = schedule()
    assert not policy.shrink([Asked(0, 0)])
    assert len(policy) == 0


def test_nobody_waits_after_a_clearance() -> None:
    """Everyone is handed back once, suspects too."""
    policy = schedule(waiting=6)
    policy.isolate(policy.take(0, 0.0))
    assert sorted(taken(list(policy.clear()))) == [0, 1, 2, 3, 4, 5]
    assert len(policy) == 0
    assert policy.take(0, 99.0) == []


@given(
    num_slots=st.integers(1, 9),
    micro_batch=st.integers(1, 9),
    moments=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.booleans()), max_size=30),
)
def test_everyone_begins_once_and_in_time(
    num_slots: int, micro_batch: int, moments: list[tuple[int, int, bool]]
) -> None:
    """Whatever comes, ends or is suspected: slots are kept, nobody is lost or begun twice."""
    policy = schedule(num_slots=num_slots, micro_batch=min(micro_batch, num_slots))
    came, running, ended, now = 0, 0, [], 0.0
    for arrivals, ends, is_suspicious in moments:
        now += 0.7
        for _ in range(arrivals):
            policy.add(Asked(0, came, arrived=now))
            came += 1
        running -= min(ends, running)
        begun = policy.take(running, now)
        assert running + len(begun) <= num_slots
        assert len(begun) <= micro_batch
        if is_suspicious and len(begun) > 1 and running == 0:
            policy.isolate(begun)
        else:
            running += len(begun)
            ended += taken(begun)
    while policy.pause_s(now) is not None:
        now += PATIENCE_S
        begun = policy.take(0, now)
        assert begun
        ended += taken(begun)
    assert sorted(ended) == list(range(came))


def test_the_reason_of_a_batch_is_known() -> None:
    """A whole micro-batch, patience that is over, the company of others, or suspicion."""
    policy = schedule(waiting=6)
    policy.take(0, 0.0)
    assert policy.reason == "full"
    policy.take(4, 0.0)  # two wait for more to join with
    assert taken(policy.take(4, PATIENCE_S)) == [4, 5]
    assert policy.reason == "joined"
    policy.add(Asked(0, 6, arrived=10.0))
    assert taken(policy.take(0, 10.0 + PATIENCE_S)) == [6]
    assert policy.reason == "waited"
    policy.isolate([Asked(0, 7)])
    assert taken(policy.take(0, 20.0)) == [7]
    assert policy.reason == "alone"
