"""The batcher: every admitted request is answered exactly once, whatever happens around it."""

import asyncio
import collections.abc
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from copy import copy
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import (
    EngineStopped,
    InternalError,
    Overloaded,
    RequestTimeout,
    ServiceError,
    StartTimeout,
)
from deployments.florence.backend import DeviceFault
from deployments.florence.batcher import (
    REASONS,
    Batcher,
    Counters,
    call_on,
    refuse,
    without_expired,
)
from deployments.florence.scheduler import GROW_AFTER
from deployments.florence.sequence import Progress, Sequences, Tokens
from tests.florence.counting_backend import SOON_S, CountingBackend, Item, ids, poison

Make = Callable[..., Batcher]


@pytest.fixture
def engine() -> Iterator[CountingBackend]:
    """A backend for four sequences without permits. It must have recorded no fault."""
    backend = CountingBackend()
    yield backend
    assert backend.faults == []


@pytest.fixture
def make(engine: CountingBackend) -> Iterator[Make]:
    """Makes batchers over the engine, and closes them."""
    made: list[Batcher] = []

    def batcher(**limits: Any) -> Batcher:
        made.append(Batcher(engine, **{"max_wait_s": 0.0, "max_queue": 100} | limits))
        return made[-1]

    yield batcher
    engine.open()
    for opened in made:
        opened.close()


@pytest.fixture
def set_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock forward by so many seconds; timers do not notice."""
    real = time.time

    def forward(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return forward


def in_time(item: int | Item, **fields: Any) -> Item:
    """An item with a minute to go, unless `fields` say otherwise."""
    whole = Item(item) if isinstance(item, int) else item
    for name, value in {"deadline": time.time() + 60, **fields}.items():
        setattr(whole, name, value)
    return whole


Task = asyncio.Task[Tokens]


async def begin(batcher: Batcher, item: int | Item, **fields: Any) -> Task:
    """A request that has been added to the queue, or refused, when this returns."""
    task = asyncio.create_task(batcher.submit(in_time(item, **fields)))
    await asyncio.sleep(0)
    return task


async def leave(task: Task) -> None:
    """Cancel a request and see it gone."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def kinds(tasks: collections.abc.Sequence[Awaitable[Tokens]]) -> list[Any]:
    """What became of each request: the number of its item, or the class of its error."""
    async with asyncio.timeout(SOON_S):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(f) if isinstance(f, BaseException) else f[0] for f in found]


def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0001)


def test_one_request_is_answered_and_measured(engine: CountingBackend, make: Make) -> None:
    """An answer says how long it waited and ran, and that it had the model for itself."""
    batcher = make()
    engine.open()
    item = in_time(Item(7, steps=3))
    assert asyncio.run(batcher.submit(item)) == (7, 3)
    assert item.share == 1
    assert 0 <= item.waited_s < SOON_S
    assert 0 <= item.ran_s < SOON_S
    assert engine.steps == [(7,)] * 3


def test_an_answer_has_its_share_of_the_steps(engine: CountingBackend, make: Make) -> None:
    """One of n in a step has an nth of it; the mean over its steps is what it had of the model."""
    batcher = make()

    long, short = Item(1, steps=2), Item(2)

    async def scenario() -> None:
        tasks = [await begin(batcher, long)]
        await engine.is_busy()
        tasks.append(await begin(batcher, short))
        engine.open()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert engine.steps == [(1,), (1, 2)]
    assert (long.share, short.share) == ((1 + 1 / 2) / 2, 1 / 2)


def test_the_wait_ends_when_the_model_begins(engine: CountingBackend, make: Make) -> None:
    """Waiting and running do not overlap and leave no gap."""
    batcher = make()

    first, second = Item(1), Item(2)

    async def scenario() -> float:
        tasks = [await begin(batcher, first)]
        await engine.is_busy()
        began = time.perf_counter()
        tasks.append(await begin(batcher, second))
        await asyncio.to_thread(until, lambda: time.perf_counter() - began > 0.02)
        engine.open()
        await asyncio.gather(*tasks)
        return time.perf_counter() - began

    took_s = asyncio.run(scenario())
    assert first.ran_s >= 0.02
    assert 0.02 <= second.waited_s <= second.waited_s + second.ran_s <= took_s


def test_a_free_engine_takes_all_that_waits(engine: CountingBackend, make: Make) -> None:
    """What arrived meanwhile begins together, as many as there are places."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in range(1, 7)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4, 5, 6]
    assert engine.steps == [(0,), (1, 2, 3, 4), (5, 6)]


def test_a_short_one_does_not_wait_for_a_long_one(engine: CountingBackend, make: Make) -> None:
    """One that joins a running batch is answered after as many more steps as it takes itself."""
    batcher = make()

    async def scenario() -> list[Any]:
        long = await begin(batcher, Item(0, steps=100))
        await engine.is_busy()
        short = await begin(batcher, Item(1, steps=2))
        engine.open(1 + 2)
        answered = await kinds([short])
        assert len(engine.steps) <= 1 + 2 + 1  # the last one waits for a permit
        assert not long.done()
        engine.open()
        return answered + await kinds([long])

    assert asyncio.run(scenario()) == [1, 0]
    assert engine.steps == [(0,), (0, 1), (0, 1)] + [(0,)] * 97


def test_a_place_that_becomes_free_is_taken_at_once(engine: CountingBackend, make: Make) -> None:
    """The next begins at the step after the one that freed its place, whatever else goes on."""
    engine.max_batch_size = engine.prefill_batch_size = 2
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, steps=2))]
        await engine.is_busy()
        steps = (1, 3, 1, 1)
        tasks += [await begin(batcher, Item(1 + n, steps=s)) for n, s in enumerate(steps)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]
    assert engine.steps == [(0,), (0, 1), (2, 3), (2, 4), (2,)]


def test_an_idle_engine_gives_others_a_moment_to_join(engine: CountingBackend, make: Make) -> None:
    """Requests within max_wait_s of the first begin with it; a full prefill batch goes at once."""
    engine.prefill_batch_size = 3
    batcher = make(max_wait_s=60.0)
    engine.open()

    async def scenario() -> list[Any]:
        return await kinds([await begin(batcher, item) for item in (1, 2, 3)])

    assert asyncio.run(scenario()) == [1, 2, 3]
    assert engine.steps == [(1, 2, 3)]


def test_an_idle_engine_does_not_wait_for_ever(engine: CountingBackend, make: Make) -> None:
    """A lone request runs after max_wait_s."""
    batcher = make(max_wait_s=0.02)
    engine.open()
    item = in_time(1)
    asyncio.run(batcher.submit(item))
    assert 0.015 < item.waited_s < SOON_S / 2


def test_what_waited_while_the_engine_was_busy_goes_when_it_is_free(
    engine: CountingBackend, make: Make
) -> None:
    """A full prefill batch that came meanwhile does not wait for more, nor for a wake-up."""
    engine.prefill_batch_size = engine.max_batch_size = 2
    batcher = make(max_wait_s=60.0)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, item) for item in (1, 2)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (3, 4)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2, 3, 4]
    assert engine.steps == [(1, 2), (3, 4)]


def test_the_smallest_priority_goes_first(engine: CountingBackend, make: Make) -> None:
    """Among those that wait, priority decides, and then arrival."""
    engine.max_batch_size = engine.prefill_batch_size = 1
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, steps=1))]
        await engine.is_busy()
        order = ((1, 5), (2, 1), (3, 0), (4, 1), (5, 0))
        tasks += [await begin(batcher, item, priority=priority) for item, priority in order]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4, 5]
    assert engine.steps == [(0,), (3,), (5,), (2,), (4,), (1,)]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"deadline": 0.03}, RequestTimeout),
        ({"start_by": 0.03}, StartTimeout),
        ({"deadline": 0.03, "start_by": 60}, RequestTimeout),
        ({"deadline": -1}, RequestTimeout),
        ({"start_by": -1}, StartTimeout),
    ],
)
def test_a_request_that_waits_too_long_is_refused_at_once(
    engine: CountingBackend, make: Make, limits: dict[str, float], expected: type[ServiceError]
) -> None:
    """A request whose time is over is refused while the engine is still busy, and never runs."""
    batcher = make()

    async def scenario() -> tuple[list[Any], float]:
        first = await begin(batcher, 0)
        await engine.is_busy()
        began = time.perf_counter()
        times = {name: time.time() + seconds for name, seconds in limits.items()}
        refused = await kinds([batcher.submit(in_time(1, **times))])
        waited = time.perf_counter() - began
        engine.open()
        await first
        return refused, waited

    refused, waited = asyncio.run(scenario())
    assert [expected] == refused
    assert waited < SOON_S / 2
    assert engine.steps == [(0,)]


def test_a_run_that_has_begun_is_not_interrupted(
    engine: CountingBackend, make: Make, set_forward: Callable[[float], None]
) -> None:
    """`start_by` is for the wait; one that runs gets its answer."""
    batcher = make()

    async def scenario() -> list[Any]:
        task = await begin(batcher, Item(1, steps=3), start_by=time.time() + 10)
        await engine.is_busy()
        set_forward(20)
        engine.open()
        return await kinds([task])

    assert asyncio.run(scenario()) == [1]


def test_a_run_that_has_begun_may_begin_again(
    engine: CountingBackend, make: Make, set_forward: Callable[[float], None]
) -> None:
    """One that runs again because another made the step fail did begin in time, once."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0))]
        await engine.is_busy()
        start_by = time.time() + 10
        tasks += [await begin(batcher, poison(1)), await begin(batcher, 2, start_by=start_by)]
        engine.open(1)
        await engine.is_busy()
        engine.open(1)
        await engine.is_busy()
        assert engine.steps[1:] == [(1, 2), (1,)]
        set_forward(20)
        [suspect] = batcher._scheduler._suspects
        batcher._expire(suspect)  # as its timer does
        engine.open()
        return await kinds(tasks)

    assert [0, ValueError, 2] == asyncio.run(scenario())


def test_a_deadline_on_the_way_ends_the_work(
    engine: CountingBackend, make: Make, set_forward: Callable[[float], None]
) -> None:
    """One that is overtaken by its deadline is dropped at the next step and gets an error."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0), deadline=time.time() + 1000)]
        await engine.is_busy()
        tasks.append(await begin(batcher, Item(1, steps=100)))
        tasks.append(await begin(batcher, Item(2, steps=4), deadline=time.time() + 1000))
        engine.open(1)
        await engine.is_busy()
        set_forward(100)
        engine.open()
        return await kinds(tasks)

    assert [0, RequestTimeout, 2] == asyncio.run(scenario())
    assert engine.steps == [(0,), (1, 2), (2,), (2,), (2,)]


def test_an_answer_after_the_deadline_is_an_error(
    engine: CountingBackend, make: Make, set_forward: Callable[[float], None]
) -> None:
    """The backend may have truncated it at the deadline, so the caller gets an error."""
    batcher = make()

    async def scenario() -> list[Any]:
        task = await begin(batcher, 1)
        await engine.is_busy()
        set_forward(100)
        engine.open()
        return await kinds([task])

    assert [RequestTimeout] == asyncio.run(scenario())


def test_a_full_queue_refuses_and_says_when_to_return(engine: CountingBackend, make: Make) -> None:
    """Beyond max_queue requests are refused, with a Retry-After; those admitted are answered."""
    batcher = make(max_queue=2)

    async def scenario() -> tuple[Overloaded, list[Any]]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (1, 2)]
        with pytest.raises(Overloaded) as refused:
            await batcher.submit(in_time(3))
        engine.open()
        return refused.value, await kinds(tasks)

    refused, answers = asyncio.run(scenario())
    assert answers == [0, 1, 2]
    assert refused.headers()["Retry-After"] == "1"  # nothing has been measured yet


def test_an_expensive_queue_refuses_and_says_when_to_return(
    engine: CountingBackend, make: Make
) -> None:
    """Beyond max_queue_tokens too; the time is that of those that wait, at the speed so far."""
    batcher = make(max_queue_tokens=10.0)

    measured = Item(0, steps=2)

    async def scenario() -> tuple[Overloaded, list[Any]]:
        first = await begin(batcher, measured, num_tokens=4.0)
        await engine.is_busy()
        left = await begin(batcher, Item(9, steps=100))
        engine.open(1)
        await engine.is_busy()
        await leave(left)
        engine.open(1)
        await first
        tasks = [await begin(batcher, 1)]
        await engine.is_busy()
        waiting = ((2, 7.0), (3, 2.0))
        tasks += [await begin(batcher, item, num_tokens=tokens) for item, tokens in waiting]
        with pytest.raises(Overloaded) as refused:
            await batcher.submit(in_time(4, num_tokens=1.5))
        tasks.append(await begin(batcher, 5, num_tokens=1.0))
        engine.open()
        return refused.value, await kinds(tasks)

    refused, answers = asyncio.run(scenario())
    assert answers == [1, 2, 3, 5]
    assert measured.share == 3 / 4
    seconds_per_token = measured.ran_s * measured.share / 4
    assert refused.retry_after_s == pytest.approx((7 + 2) * seconds_per_token)
    assert refused.headers()["Retry-After"] == "1"


def test_the_largest_request_is_served_when_none_waits(engine: CountingBackend, make: Make) -> None:
    """One with more tokens than may wait is refused only when others wait."""
    batcher = make(max_queue_tokens=10.0)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0, num_tokens=99.0)]
        await engine.is_busy()
        tasks += [
            await begin(batcher, item, num_tokens=tokens) for item, tokens in ((1, 99.0), (2, 0.1))
        ]
        engine.open()
        return await kinds(tasks)

    assert [0, 1, Overloaded] == asyncio.run(scenario())


def test_one_that_leaves_never_runs_and_frees_a_place(engine: CountingBackend, make: Make) -> None:
    """A cancelled caller's place in a full queue goes to the next."""
    batcher = make(max_queue=1)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        await leave(await begin(batcher, 1))
        tasks.append(await begin(batcher, 2))
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 2]
    assert engine.steps == [(0,), (2,)]


def test_the_engine_outlives_everyone_leaving(engine: CountingBackend, make: Make) -> None:
    """When all callers leave while an idle engine waits for more, it waits for the next ones."""
    engine.prefill_batch_size = 2
    batcher = make(max_wait_s=60.0)
    engine.open()

    async def scenario() -> list[Any]:
        await leave(await begin(batcher, 1))
        batcher.check(SOON_S)
        return await kinds([await begin(batcher, item) for item in (2, 3)])

    assert asyncio.run(scenario()) == [2, 3]
    assert engine.steps == [(2, 3)]


def test_one_that_leaves_while_it_runs_is_dropped_at_the_next_step(
    engine: CountingBackend, make: Make
) -> None:
    """Its place goes to the next, and the others lose nothing."""
    engine.max_batch_size = 2
    batcher = make()

    async def scenario() -> list[Any]:
        left = await begin(batcher, Item(0, steps=100))
        await engine.is_busy()
        tasks = [await begin(batcher, Item(1, steps=3)), await begin(batcher, 2)]
        engine.open(1)
        await engine.is_busy()
        await leave(left)
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2]
    assert engine.steps == [(0,), (0, 1), (1, 2), (1,)]


def test_a_batch_without_callers_ends(engine: CountingBackend, make: Make) -> None:
    """After the last caller has left no step is made; the next request runs at once."""
    batcher = make()

    async def scenario() -> list[Any]:
        left = await begin(batcher, Item(1, steps=100))
        await engine.is_busy()
        await leave(left)
        engine.open()
        return await kinds([batcher.submit(in_time(2))])

    assert asyncio.run(scenario()) == [2]
    assert engine.steps == [(1,), (2,)]


@pytest.mark.parametrize("culprits", [{1}, {4}, {1, 4}, {2, 3}, {1, 2, 3, 4}])
@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_poison_item_fails_alone(
    engine: CountingBackend, make: Make, culprits: set[int], fails_at: int
) -> None:
    """When some cannot begin together, or a step fails, only those fail that make it fail."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        for item in (1, 2, 3, 4):
            chosen = poison(item, fails_at) if item in culprits else Item(item)
            tasks.append(await begin(batcher, chosen))
        engine.open()
        return await kinds(tasks)

    expected = [ValueError if item in culprits else item for item in range(5)]
    assert expected == asyncio.run(scenario())
    assert engine.begun == [(0,), (1, 2, 3, 4), (1,), (2,), (3,), (4,)]
    batcher.check(SOON_S)


def test_a_failing_step_costs_no_other_its_answer(engine: CountingBackend, make: Make) -> None:
    """Those that had run for long begin again alone, then those that wait; all are whole."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, steps=3))]
        await engine.is_busy()
        guilty = poison(2, fails_at=2, steps=2)
        tasks += [await begin(batcher, Item(1, steps=2)), await begin(batcher, guilty)]
        engine.open(2)
        await engine.is_busy()
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (3, 4)]
        engine.open()
        return await kinds(tasks)

    assert [0, 1, ValueError, 3, 4] == asyncio.run(scenario())
    together, again = engine.steps[:3], engine.steps[3:]
    assert together == [(0,), (0, 1, 2), (0, 1, 2)]
    assert again == [(0,)] * 3 + [(1,)] * 2 + [(2,)] * 2 + [(3, 4)]


def test_a_failed_step_is_not_repeated_for_those_that_left(
    engine: CountingBackend, make: Make, set_forward: Callable[[float], None]
) -> None:
    """Requests whose callers have left, or which expired meanwhile, do not run again."""
    batcher = make(max_wait_s=60.0)

    async def scenario() -> list[Any]:
        far_deadline = time.time() + 1000
        items = [Item(1), Item(2), poison(3), Item(4)]
        tasks = [await begin(batcher, item, deadline=far_deadline) for item in items[:3]]
        tasks.append(await begin(batcher, items[3]))
        await engine.is_busy()
        await leave(tasks[1])
        set_forward(100)
        engine.open()
        return await kinds(tasks)

    assert [1, asyncio.CancelledError, ValueError, RequestTimeout] == asyncio.run(scenario())
    assert engine.steps == [(1, 2, 3, 4), (1,), (3,)]


def test_too_many_for_the_memory_begin_in_smaller_batches(
    engine: CountingBackend, make: Make
) -> None:
    """A prefill batch that does not fit is halved until it does, and stays so; none fails."""
    engine.fits = 2
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(item, steps=2)) for item in range(1, 7)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4, 5, 6]
    assert engine.begun == [(0,), (1, 2, 3, 4), (1, 2), (3, 4), (5, 6)]


def test_as_many_begin_together_again_when_there_is_memory(
    engine: CountingBackend, make: Make
) -> None:
    """After a while, though a try in between may fail; none is refused for it."""
    engine.fits = 2
    batcher = make(max_wait_s=60.0, max_queue=9999)
    engine.open(100_000)

    async def scenario(numbers: range) -> list[Any]:
        return await kinds([await begin(batcher, number) for number in numbers])

    many = range(2 * GROW_AFTER + 8)
    assert asyncio.run(scenario(many)) == list(many)
    assert [len(begun) for begun in engine.begun].count(4) == 2
    assert asyncio.run(scenario(many)) == list(many)
    engine.fits = 4
    assert asyncio.run(scenario(many)) == list(many)
    assert [len(begun) for begun in engine.begun[-2:]] == [4, 4]
    assert engine.probes == 0


def test_one_that_does_not_fit_by_itself_is_refused(engine: CountingBackend, make: Make) -> None:
    """There is nothing smaller to try; the engine goes on."""
    batcher = make(max_wait_s=60.0)
    engine.open()

    async def scenario() -> list[Any]:
        huge = poison(1, fails_at=0, error=MemoryError)
        return await kinds([await begin(batcher, item) for item in (huge, 2, 3, 4)])

    assert [MemoryError, 2, 3, 4] == asyncio.run(scenario())
    assert engine.begun == [(1, 2, 3, 4), (1, 2), (1,), (2,), (3,), (4,)]
    batcher.check(SOON_S)


def test_a_long_one_takes_turns_with_those_that_wait(engine: CountingBackend, make: Make) -> None:
    """After its quantum it is preempted, and later resumes where it was."""
    engine.max_batch_size = engine.prefill_batch_size = 1
    batcher = make(turn_tokens=3)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(1, steps=8))]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(2, steps=4)), await begin(batcher, 3)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2, 3]
    turns = [[1] * 3, [2] * 3, [3], [1] * 3, [2], [1] * 2]
    assert engine.steps == [(number,) for turn in turns for number in turn]


def test_none_is_preempted_without_need(engine: CountingBackend, make: Make) -> None:
    """With a free place, or with an empty queue, a sequence goes on to its end."""
    batcher = make(turn_tokens=1)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(1, steps=9))]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(item, steps=3)) for item in (2, 3, 4)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2, 3, 4]
    assert engine.begun == [(1,), (2, 3, 4)]


def test_the_more_urgent_is_not_preempted(engine: CountingBackend, make: Make) -> None:
    """One that waits gets the place of one that is no more urgent, the one with the most steps."""
    engine.max_batch_size = 3
    batcher = make(turn_tokens=1)

    async def scenario() -> list[Any]:
        urgent = await begin(batcher, Item(1, steps=6), priority=0)
        await engine.is_busy()
        tasks = [urgent, await begin(batcher, Item(2, steps=6), priority=1)]
        engine.open(1)
        await engine.is_busy()
        tasks.append(await begin(batcher, Item(3, steps=6), priority=1))
        engine.open(1)
        await engine.is_busy()
        tasks.append(await begin(batcher, Item(4), priority=1))
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2, 3, 4]
    assert engine.steps[:4] == [(1,), (1, 2), (1, 2, 3), (1, 3, 4)]


def test_a_backend_that_cannot_preempt_goes_on(engine: CountingBackend, make: Make) -> None:
    """One that waits then waits for the end of another."""
    engine.max_batch_size = engine.prefill_batch_size = 1
    engine.can_preempt = False
    batcher = make(turn_tokens=1)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(1, steps=3))]
        await engine.is_busy()
        tasks.append(await begin(batcher, 2))
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2]
    assert engine.steps == [(1,), (1,), (1,), (2,)]


def test_one_that_leaves_while_preempted_is_forgotten(engine: CountingBackend, make: Make) -> None:
    """The backend keeps nothing of it, and it never goes on."""
    engine.max_batch_size = engine.prefill_batch_size = 1
    batcher = make(turn_tokens=1)

    async def scenario() -> list[Any]:
        left = await begin(batcher, Item(1, steps=3))
        await engine.is_busy()
        other = await begin(batcher, Item(2))
        engine.open(1)
        await engine.is_busy()
        await leave(left)
        engine.open()
        return await kinds([other])

    assert asyncio.run(scenario()) == [2]
    until(engine.is_empty)
    assert engine.steps == [(1,), (2,)]


def test_an_idle_engine_forgets_one_that_leaves_while_preempted(
    engine: CountingBackend, make: Make
) -> None:
    """It sleeps, and the cancellation wakes it."""
    engine.max_batch_size = engine.prefill_batch_size = 2
    batcher = make(turn_tokens=1, max_wait_s=60.0)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(item, steps=3)) for item in (1, 2)]
        await engine.is_busy()
        third = await begin(batcher, 3)
        engine.open(1)
        await engine.is_busy()
        await leave(third)
        engine.open(2)
        found = await kinds(tasks[1:])
        await asyncio.to_thread(until, lambda: batcher._busy_since is None)
        await asyncio.sleep(0.01)  # it sleeps by now, or will see it anyway
        assert not engine.is_empty()
        await leave(tasks[0])
        return found

    assert asyncio.run(scenario()) == [2]
    until(engine.is_empty)
    assert engine.steps == [(1, 2), (2,), (2,)]


def test_one_that_is_preempted_when_a_step_fails_begins_anew(
    engine: CountingBackend, make: Make
) -> None:
    """A reset forgets what was preempted too; its answer is as whole as any."""
    engine.max_batch_size = engine.prefill_batch_size = 1
    batcher = make(turn_tokens=2)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(1, steps=3))]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (poison(2), Item(3))]
        engine.open()
        return await kinds(tasks)

    assert [1, ValueError, 3] == asyncio.run(scenario())
    assert engine.steps == [(1,), (1,), (2,), (3,), (1,), (1,), (1,)]


@pytest.mark.parametrize("fails_at", [0, 1])
def test_one_that_was_preempted_can_fail_to_go_on(
    engine: CountingBackend, make: Make, fails_at: int
) -> None:
    """One that begins with it may make both fail; it resumes, or begins anew."""
    engine.max_batch_size = engine.prefill_batch_size = 2
    batcher = make(turn_tokens=2)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(item, steps=5)) for item in (1, 2)]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(item, steps=4)) for item in (3, 4)]
        tasks += [await begin(batcher, poison(5, fails_at))]
        engine.open()
        return await kinds(tasks)

    assert [1, 2, 3, 4, ValueError] == asyncio.run(scenario())


def test_what_a_backend_invents_is_ignored(engine: CountingBackend, make: Make) -> None:
    """A sequence twice, or one that does not run, changes nothing."""
    batcher = make()
    honest = engine.step

    def step() -> Sequences:
        return [*list(honest()) * 2, Item(9)]

    engine.step = step  # type: ignore[method-assign]
    engine.open()

    async def scenario() -> list[Any]:
        return await kinds([await begin(batcher, item) for item in (1, 2)])

    assert asyncio.run(scenario()) == [1, 2]
    batcher.check(SOON_S)


def dead(batcher: Batcher, why: str = "") -> None:
    """Wait until the engine has stopped, and check that it says why, in one line."""
    batcher._thread.join(SOON_S)
    with pytest.raises(EngineStopped, match=f"^The engine has stopped: .*{why}.*$"):
        batcher.check(SOON_S)


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_dying_engine_answers_all(engine: CountingBackend, make: Make, fails_at: int) -> None:
    """When the thread dies, those that run, those that wait and those to come get an error."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, steps=100))]
        await engine.is_busy()
        deadly = poison(1, fails_at, error=SystemExit)
        tasks += [await begin(batcher, item) for item in (deadly, *range(2, 9))]
        engine.open(2)
        return await kinds([*tasks, batcher.submit(in_time(9))])

    assert [EngineStopped] * 10 == asyncio.run(scenario())
    dead(batcher)


def test_an_engine_that_dies_over_a_suspect_answers_all(
    engine: CountingBackend, make: Make
) -> None:
    """Death while some run again leaves none of the others waiting."""
    batcher = make(max_wait_s=60.0)
    engine.open()

    async def scenario() -> list[Any]:
        items = [Item(1), poison(2, 2, steps=2, error=SystemExit), poison(3), Item(4)]
        return await kinds([await begin(batcher, item) for item in items])

    assert [1, EngineStopped, EngineStopped, EngineStopped] == asyncio.run(scenario())
    dead(batcher)


def test_an_engine_that_cannot_be_reset_answers_all(engine: CountingBackend, make: Make) -> None:
    """A device that is lost fails the step, and then the reset."""
    batcher = make(max_wait_s=60.0)

    def reset() -> None:
        raise RuntimeError("the device is lost")

    engine.reset = reset  # type: ignore[method-assign]
    engine.open()

    async def scenario() -> list[Any]:
        items = [Item(1), poison(2), Item(3), Item(4)]
        return await kinds([await begin(batcher, item) for item in items])

    assert [EngineStopped] * 4 == asyncio.run(scenario())
    dead(batcher)


def test_an_engine_that_cannot_be_prepared_is_dead(engine: CountingBackend, make: Make) -> None:
    """What was to be done first has failed, so nothing is done."""

    def prepare() -> None:
        raise OSError("no such core")

    batcher = make(prepare=prepare)
    dead(batcher)
    assert [EngineStopped] == asyncio.run(kinds([batcher.submit(in_time(1))]))


@pytest.mark.parametrize("sickness", [RuntimeError, DeviceFault, MemoryError])
def test_a_sick_device_is_blamed_on_no_request(
    engine: CountingBackend, make: Make, sickness: type[Exception]
) -> None:
    """Of 500, none gets an error of its own, and the first few are enough to know."""
    ended = threading.Event()
    batcher = make(max_queue=500, on_failure=ended.set)
    engine.is_sick, engine.sickness = True, sickness

    async def scenario() -> list[Any]:
        return await kinds([await begin(batcher, item) for item in range(500)])

    assert set(asyncio.run(scenario())) == {EngineStopped}
    assert ended.wait(SOON_S)
    dead(batcher, f"{sickness.__name__}: the device is lost")
    assert len(engine.begun) <= 4
    assert engine.probes == (sickness is not DeviceFault)


@pytest.mark.parametrize("sickness", [RuntimeError, DeviceFault])
def test_a_device_that_fails_in_a_step_is_blamed_on_no_request(
    engine: CountingBackend, make: Make, sickness: type[Exception]
) -> None:
    """Neither those that run get an error of their own, nor the preempted, nor those that wait."""
    engine.max_batch_size = engine.prefill_batch_size = 2
    batcher = make(turn_tokens=1)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(item, steps=5)) for item in (1, 2)]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(item, steps=5)) for item in (3, 4, 5)]
        engine.open(1)
        await engine.is_busy()
        assert batcher._preempted
        engine.is_sick, engine.sickness = True, sickness
        engine.open()
        return await kinds([*tasks, batcher.submit(in_time(6))])

    assert [EngineStopped] * 6 == asyncio.run(scenario())
    dead(batcher, "the device is lost")


@pytest.mark.parametrize("fails_at", [0, 1])
def test_bad_requests_end_alone_while_the_device_does_its_own_example(
    engine: CountingBackend, make: Make, fails_at: int
) -> None:
    """However many come in a row, each gets its error at once, and the engine goes on."""
    batcher = make()
    engine.open()

    async def scenario() -> list[Any]:
        found = []
        for item in range(10):
            found += await kinds([batcher.submit(in_time(poison(item, fails_at)))])
        return found + await kinds([batcher.submit(in_time(10))])

    assert [ValueError] * 10 + [10] == asyncio.run(scenario())
    assert engine.probes == 10
    batcher.check(SOON_S)


def test_a_bad_request_is_told_from_a_sick_device_while_others_run(
    engine: CountingBackend, make: Make
) -> None:
    """The example runs beside them, and they lose nothing."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, steps=3))]
        await engine.is_busy()
        tasks.append(await begin(batcher, poison(1, fails_at=0)))
        engine.open()
        return await kinds(tasks)

    assert [0, ValueError] == asyncio.run(scenario())
    assert (engine.steps, engine.probes) == ([(0,)] * 3, 1)


def test_the_engine_thread_is_prepared_before_any_work(engine: CountingBackend, make: Make) -> None:
    """Once, and on the thread itself."""
    prepared: list[int] = []
    batcher = make(prepare=lambda: prepared.append(threading.get_ident()))
    engine.open()
    asyncio.run(batcher.submit(in_time(1)))
    assert prepared == [batcher._thread.ident]


def test_a_step_that_takes_too_long_is_a_stall(engine: CountingBackend, make: Make) -> None:
    """check() raises for a stuck engine, not for an idle or a working one."""
    batcher = make()
    batcher.check(0)

    async def scenario() -> None:
        task = await begin(batcher, 1)
        await engine.is_busy()
        batcher.check(SOON_S)
        await asyncio.sleep(0.01)
        with pytest.raises(InternalError, match="takes longer than"):
            batcher.check(0.005)
        engine.open()
        await task

    asyncio.run(scenario())
    until(lambda: batcher._busy_since is None)
    batcher.check(0)


def test_many_short_steps_are_no_stall(engine: CountingBackend, make: Make) -> None:
    """Time is taken per step: a sequence may take as long as it likes."""
    batcher = make()

    def is_over(began: float) -> bool:
        return batcher._busy_since != began

    async def scenario() -> None:
        task = await begin(batcher, Item(1, steps=3))
        for _ in range(3):
            await engine.is_busy()
            began = batcher._busy_since
            assert began
            batcher.check(SOON_S)
            engine.open(1)
            await asyncio.to_thread(until, partial(is_over, began))
        await task

    asyncio.run(scenario())


def test_closing_finishes_the_step_and_refuses_the_rest(
    engine: CountingBackend, make: Make
) -> None:
    """What ends with the step gets an answer; what goes on, waits or comes later gets an error."""
    batcher = make(max_wait_s=60.0)

    async def scenario() -> list[Any]:
        items = [Item(1), Item(2, steps=2), Item(3), Item(4)]
        tasks = [await begin(batcher, item) for item in items]
        await engine.is_busy()
        tasks.append(await begin(batcher, 5))
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.to_thread(until, lambda: batcher._closed)
        engine.open()
        await closing
        return await kinds([*tasks, batcher.submit(in_time(6))])

    assert [1, EngineStopped, 3, 4, EngineStopped, EngineStopped] == asyncio.run(scenario())
    assert engine.steps == [(1, 2, 3, 4)]


def test_an_idle_engine_closes_at_once(make: Make) -> None:
    """Closing wakes it."""
    batcher = make(max_wait_s=60.0)
    batcher.close()
    batcher.close()
    assert not batcher._thread.is_alive()


def test_progress_is_reported_in_order_to_callers_that_want_it(
    engine: CountingBackend, make: Make
) -> None:
    """Now and then, on the caller's own event loop, before the result; others are not asked for."""
    batcher = make()
    engine.open()
    reported: list[tuple[Tokens, int]] = []

    async def scenario() -> Tokens:
        other = await begin(batcher, Item(2, steps=12))
        answer = await batcher.submit(
            in_time(Item(1, steps=11)),
            lambda progress: reported.append((progress.tokens, threading.get_ident())),
        )
        assert [tokens for tokens, _ in reported] == [(1, 4), (1, 8)]
        await other
        return answer

    assert asyncio.run(scenario()) == (1, 11)
    assert {thread for _, thread in reported} == {threading.get_ident()}
    assert engine.reported == [1, 1]


def test_a_loop_that_is_closed_is_not_called() -> None:
    """A caller may be gone with its whole event loop."""
    loop = asyncio.new_event_loop()
    loop.close()
    reported: list[Progress] = []
    call_on(loop, reported.append, Progress((1, 4)))
    assert reported == []


def test_an_image_is_freed_with_its_answer() -> None:
    """No circle of references keeps a sequence until the next collection of garbage."""

    class Echo(CountingBackend):
        """Answers as soon as it is asked."""

        def add(self, sequences: Sequences) -> None:
            self.sequences = list(sequences)

        def step(self) -> Sequences:
            sequences, self.sequences = self.sequences, []
            return sequences

    batcher = Batcher(Echo(), max_wait_s=0.0, max_queue=9)
    items = [in_time(1)]
    known = weakref.ref(items[0])

    async def scenario() -> None:
        await batcher.submit(items.pop(), on_progress=lambda _: None)

    gc.disable()
    try:
        asyncio.run(scenario())
        until(lambda: known() is None)
    finally:
        gc.enable()
        batcher.close()


class Ledger(CountingBackend):
    """An open backend that remembers when a caller had already left."""

    def __init__(self, max_batch_size: int, prefill_batch_size: int, fits: int) -> None:
        super().__init__(max_batch_size, prefill_batch_size, fits)
        self.gone: set[int] = set()
        self.ran: set[int] = set()
        self.late: list[int] = []
        self.open(100_000)

    def add(self, sequences: Sequences) -> None:
        """See CountingBackend."""
        fresh = set(ids(sequences)) - self.ran
        self.late += fresh & self.gone
        self.ran |= fresh
        super().add(sequences)


events = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, 2)),
        st.tuples(st.just("poison"), st.integers(0, 2)),
        st.tuples(st.just("late"), st.integers(0, 2)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("yield"), st.integers(0, 3)),
        st.tuples(st.just("pause"), st.just(0)),
    ),
    max_size=30,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    events=events,
    max_batch_size=st.integers(1, 6),
    prefill_batch_size=st.integers(1, 6),
    fits=st.integers(1, 6),
    max_queue=st.integers(1, 12),
    max_wait_s=st.sampled_from([0.0, 0.0005, 0.002]),
    turn_tokens=st.integers(1, 6),
    ending=st.sampled_from(["wait", "close"]),
)
def test_every_admitted_request_is_answered_exactly_once(
    events: list[tuple[str, int]],
    max_batch_size: int,
    prefill_batch_size: int,
    fits: int,
    max_queue: int,
    max_wait_s: float,
    turn_tokens: int,
    ending: str,
) -> None:
    """Whatever arrives, leaves, fails or expires, each request gets its one right answer."""
    ledger = Ledger(max_batch_size, min(prefill_batch_size, max_batch_size), fits)
    batcher = Batcher(ledger, max_wait_s=max_wait_s, max_queue=max_queue, turn_tokens=turn_tokens)
    items = {
        number: poison(number, value, steps=4) if kind == "poison" else Item(number, 1 + value)
        for number, (kind, value) in enumerate(events)
    }
    answers: dict[int, list[Any]] = {}
    left: set[int] = set()

    async def request(item: int) -> None:
        try:
            answers[item].append(await batcher.submit(items[item]))
        except asyncio.CancelledError:
            answers[item].append(asyncio.CancelledError)
        except Exception as error:
            answers[item].append(type(error))

    async def scenario() -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        for number, (kind, value) in enumerate(events):
            if kind in ("arrive", "poison", "late"):
                answers[number] = []
                left_s = 0.001 * value if kind == "late" else 60
                in_time(items[number], deadline=time.time() + left_s, priority=value)
                tasks[number] = asyncio.create_task(request(number))
            elif kind == "leave" and tasks:
                item = list(tasks)[value % len(tasks)]
                left.add(item)
                with batcher._changed:  # none is taken out of the queue meanwhile
                    waiting = set(ids(batcher._scheduler._waiting))
                    tasks[item].cancel()
                    await asyncio.wait([tasks[item]])
                ledger.gone |= waiting & {item}
            elif kind == "pause":
                await asyncio.sleep(0.001)
            else:
                for _ in range(value):
                    await asyncio.sleep(0)
        if ending == "close":
            await asyncio.to_thread(batcher.close)
        async with asyncio.timeout(SOON_S):
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    asyncio.run(scenario())
    batcher.close()
    ends = {Overloaded, RequestTimeout, asyncio.CancelledError} | (
        {EngineStopped} if ending == "close" else set()
    )
    for number, given_ in answers.items():
        # A task that is cancelled before its first step never reaches the batcher.
        assert len(given_) == 1 or (number in left and number not in ledger.ran)
        item = items[number]
        right: Any = ValueError if item.fails_at is not None else (number, item.steps)
        assert set(given_) <= {right} | ends
        if number in ledger.ran:
            assert Overloaded not in given_
    assert ledger.faults == []
    assert ledger.late == []
    assert ledger.is_empty() or ending == "close"
    assert (len(batcher._scheduler), batcher._running) == (0, [])


def test_a_sequence_that_has_expired_does_not_begin() -> None:
    """Those begin whose callers wait and are in time, whatever the timers have come to."""
    now = time.time()
    items = [in_time(1), in_time(2, deadline=now - 1), in_time(3, start_by=now - 1), in_time(4)]
    items[3].future.cancel()
    assert without_expired(items) == items[:1]
    assert isinstance(items[1].future.exception(0), RequestTimeout)
    assert isinstance(items[2].future.exception(0), StartTimeout)


def test_an_error_does_not_disturb_a_caller_that_has_left() -> None:
    """It may leave at the very moment at which its request expires."""
    gone = in_time(1)
    gone.future.cancel()
    refuse(gone, RequestTimeout())
    assert gone.future.cancelled()


def test_a_result_does_not_disturb_a_caller_that_has_left(
    engine: CountingBackend, make: Make
) -> None:
    """It may leave at the very moment at which its request ends."""
    batcher = make()

    async def scenario() -> list[Any]:
        item = in_time(1)
        item.is_wanted = lambda: True  # type: ignore[method-assign]
        task = await begin(batcher, item)
        await engine.is_busy()
        await leave(task)
        engine.open()
        return await kinds([await begin(batcher, 2)])

    assert asyncio.run(scenario()) == [2]
    batcher.check(SOON_S)


def test_it_counts_what_waits_and_what_runs(engine: CountingBackend, make: Make) -> None:
    """The autoscaling policy asks; what has ended counts no more."""
    batcher = make()

    async def scenario() -> None:
        asked = [asyncio.create_task(batcher.submit(in_time(1))) for _ in range(6)]
        async with asyncio.timeout(SOON_S):
            while batcher.num_ongoing < 6:  # noqa: ASYNC110, it is looked at from outside
                await asyncio.sleep(0.001)
        engine.open()
        await asyncio.gather(*asked)

    asyncio.run(scenario())
    assert batcher.num_ongoing == 0


def test_it_counts_what_the_engine_has_done(engine: CountingBackend, make: Make) -> None:
    """Steps, requests in them, why batches began, and the time that was spent in them."""
    batcher = make()
    assert (batcher.max_batch_size, batcher.num_running, batcher.num_waiting) == (4, 0, 0)

    async def scenario() -> None:
        first = await begin(batcher, Item(1, steps=2))
        await asyncio.to_thread(engine.entered.acquire, timeout=SOON_S)
        others = [await begin(batcher, Item(number)) for number in (2, 3, 4, 5)]
        assert (batcher.num_running, batcher.num_waiting) == (1, 4)
        engine.open()
        await asyncio.gather(first, *others)

    asyncio.run(scenario())
    counters = batcher.counters
    assert counters.steps == len(engine.steps)
    assert counters.sequences == sum(len(step) for step in engine.steps) == 6
    assert dict(counters.batches) == {"waited": 1, "joined": 1} | dict(counters.batches)
    assert sum(counters.batches.values()) == len(engine.begun)
    assert counters.busy_s > 0


def test_what_was_done_since_is_the_difference() -> None:
    """A copy stays as it was, and every reason is counted, also those that did not occur."""
    counters = Counters()
    counters.count_step(3)
    counters.count_batch("full")
    before = copy(counters)
    counters.count_step(8)
    counters.count_step(1)
    counters.count_batch("full")
    counters.count_batch("joined")
    counters.busy_s += 0.5
    since = counters.since(before)
    assert (since.steps, since.sequences, since.busy_s) == (2, 9, 0.5)
    assert since.batches == dict.fromkeys(REASONS, 0) | {"full": 1, "joined": 1}
    assert (before.steps, before.sequences, dict(before.batches)) == (1, 3, {"full": 1})
