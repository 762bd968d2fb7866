"""The batcher: every admitted request is answered exactly once, whatever happens around it."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import (
    InternalError,
    Overloaded,
    RequestTimeout,
    ServiceError,
    StartTimeout,
)
from deployments.florence.backend import Job
from deployments.florence.batcher import (
    Batched,
    Batcher,
    Entry,
    Interest,
    in_time,
    refuse,
    settle,
    tell,
)
from deployments.florence.request import Request
from deployments.florence.schemas import ImageInput
from tests.florence.countdown import SOON_S, Countdown, Item, Said, numbers, poison

DYING = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

Make = Callable[..., Batcher[Item, Said]]


@pytest.fixture
def engine() -> Iterator[Countdown]:
    """A backend with a closed gate and room for four; the batcher must have used it well."""
    backend = Countdown()
    yield backend
    assert backend.faults == []


@pytest.fixture
def make(engine: Countdown) -> Iterator[Make]:
    """Makes batchers over the engine, and closes them."""
    made: list[Batcher[Item, Said]] = []

    def batcher(**limits: Any) -> Batcher[Item, Said]:
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


def a_run(**fields: Any) -> Request:
    """A run with a minute to go."""
    image = ImageInput(image_url="u")
    return Request("r", "t", image, **{"deadline": time.time() + 60} | fields)


Task = asyncio.Task[Batched[Said]]


async def begin(batcher: Batcher[Item, Said], item: int | Item, **fields: Any) -> Task:
    """A request that has been admitted, or refused, when this returns."""
    whole = Item(item) if isinstance(item, int) else item
    cost = fields.pop("cost", 1.0)
    task = asyncio.create_task(batcher.submit(whole, a_run(**fields), cost))
    await asyncio.sleep(0)
    return task


async def leave(task: Task) -> None:
    """Cancel a request and see it gone."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def kinds(tasks: Sequence[Awaitable[Batched[Said]]]) -> list[Any]:
    """What became of each request: the number of its item, or the class of its error."""
    async with asyncio.timeout(SOON_S):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(f) if isinstance(f, BaseException) else f.result[0] for f in found]


def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0001)


def test_one_request_is_answered_and_measured(engine: Countdown, make: Make) -> None:
    """An answer says how long it waited and ran, and that it had the model for itself."""
    batcher = make()
    engine.open()
    answer = asyncio.run(batcher.submit(Item(7, num_steps=3), a_run()))
    assert answer.result == (7, 3)
    assert answer.share == 1
    assert 0 <= answer.waited_s < SOON_S
    assert 0 <= answer.ran_s < SOON_S
    assert engine.steps == [(7,)] * 3


def test_an_answer_has_its_share_of_the_steps(engine: Countdown, make: Make) -> None:
    """One of n in a step has an nth of it; the mean over its steps is what it had of the model."""
    batcher = make()

    async def scenario() -> tuple[Batched[Said], Batched[Said]]:
        long = await begin(batcher, Item(1, num_steps=2))
        await engine.is_busy()
        short = await begin(batcher, 2)
        engine.open()
        return await long, await short

    long, short = asyncio.run(scenario())
    assert engine.steps == [(1,), (1, 2)]
    assert (long.share, short.share) == ((1 + 1 / 2) / 2, 1 / 2)


def test_the_wait_ends_when_the_model_begins(engine: Countdown, make: Make) -> None:
    """Waiting and running do not overlap and leave no gap."""
    batcher = make()

    async def scenario() -> tuple[Batched[Said], Batched[Said], float]:
        first = await begin(batcher, Item(1, num_steps=1))
        await engine.is_busy()
        began = time.perf_counter()
        second = await begin(batcher, 2)
        await asyncio.to_thread(until, lambda: time.perf_counter() - began > 0.02)
        engine.open()
        answers = await first, await second
        return *answers, time.perf_counter() - began

    first, second, took_s = asyncio.run(scenario())
    assert first.ran_s >= 0.02
    assert 0.02 <= second.waited_s <= second.waited_s + second.ran_s <= took_s


def test_a_free_engine_takes_all_that_waits(engine: Countdown, make: Make) -> None:
    """What arrived meanwhile begins together, as many as there are slots."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in range(1, 7)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4, 5, 6]
    assert engine.steps == [(0,), (1, 2, 3, 4), (5, 6)]


def test_a_short_one_does_not_wait_for_a_long_one(engine: Countdown, make: Make) -> None:
    """Who joins a sequence under way is answered after as many steps more as it takes itself."""
    batcher = make()

    async def scenario() -> list[Any]:
        long = await begin(batcher, Item(0, num_steps=100))
        await engine.is_busy()
        short = await begin(batcher, Item(1, num_steps=2))
        engine.open(1 + 2)
        answered = await kinds([short])
        assert len(engine.steps) <= 1 + 2 + 1  # the last one stands before the gate
        assert not long.done()
        engine.open()
        return answered + await kinds([long])

    assert asyncio.run(scenario()) == [1, 0]
    assert engine.steps == [(0,), (0, 1), (0, 1)] + [(0,)] * 97


def test_a_slot_that_becomes_free_is_taken_at_once(engine: Countdown, make: Make) -> None:
    """The next begins at the step after the one that freed its slot, whoever else goes on."""
    engine.num_slots = engine.micro_batch = 2
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, num_steps=2))]
        await engine.is_busy()
        steps = (1, 3, 1, 1)
        tasks += [await begin(batcher, Item(1 + n, num_steps=s)) for n, s in enumerate(steps)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]
    assert engine.steps == [(0,), (0, 1), (2, 3), (2, 4), (2,)]


def test_an_idle_engine_gives_others_a_moment_to_join(engine: Countdown, make: Make) -> None:
    """Requests within max_wait of the first begin with it; a full micro-batch goes before."""
    engine.micro_batch = 3
    batcher = make(max_wait_s=60.0)
    engine.open()

    async def scenario() -> list[Any]:
        return await kinds([await begin(batcher, item) for item in (1, 2, 3)])

    assert asyncio.run(scenario()) == [1, 2, 3]
    assert engine.steps == [(1, 2, 3)]


def test_an_idle_engine_does_not_wait_for_ever(engine: Countdown, make: Make) -> None:
    """A lone request runs after max_wait."""
    batcher = make(max_wait_s=0.02)
    engine.open()
    answer = asyncio.run(batcher.submit(Item(1), a_run()))
    assert 0.015 < answer.waited_s < SOON_S / 2


def test_what_waited_while_the_engine_was_busy_goes_when_it_is_free(
    engine: Countdown, make: Make
) -> None:
    """A full micro-batch that came meanwhile does not wait for more, nor for a wake-up."""
    engine.micro_batch = engine.num_slots = 2
    batcher = make(max_wait_s=60.0)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, item) for item in (1, 2)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (3, 4)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2, 3, 4]
    assert engine.steps == [(1, 2), (3, 4)]


def test_the_smallest_priority_goes_first(engine: Countdown, make: Make) -> None:
    """Among those that wait, priority decides, and then arrival."""
    engine.num_slots = engine.micro_batch = 1
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, num_steps=1))]
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
def test_whoever_waits_too_long_hears_of_it_at_once(
    engine: Countdown, make: Make, limits: dict[str, float], expected: type[ServiceError]
) -> None:
    """A request whose time is over is refused while the engine is still busy, and never runs."""
    batcher = make()

    async def scenario() -> tuple[list[Any], float]:
        first = await begin(batcher, 0)
        await engine.is_busy()
        began = time.perf_counter()
        times = {name: time.time() + seconds for name, seconds in limits.items()}
        refused = await kinds([batcher.submit(Item(1), a_run(**times))])
        waited = time.perf_counter() - began
        engine.open()
        await first
        return refused, waited

    refused, waited = asyncio.run(scenario())
    assert [expected] == refused
    assert waited < SOON_S / 2
    assert engine.steps == [(0,)]


def test_a_run_that_has_begun_is_not_interrupted(
    engine: Countdown, make: Make, set_forward: Callable[[float], None]
) -> None:
    """`start_by` is for the wait; who is under way gets its answer."""
    batcher = make()

    async def scenario() -> list[Any]:
        task = await begin(batcher, Item(1, num_steps=3), start_by=time.time() + 10)
        await engine.is_busy()
        set_forward(20)
        engine.open()
        return await kinds([task])

    assert asyncio.run(scenario()) == [1]


def test_a_run_that_has_begun_may_begin_again(
    engine: Countdown, make: Make, set_forward: Callable[[float], None]
) -> None:
    """Who is tried again because another made the step fail did begin in time, once."""
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
        [suspect] = batcher._schedule._suspects
        batcher._expire(suspect)  # as its timer does
        engine.open()
        return await kinds(tasks)

    assert [0, ValueError, 2] == asyncio.run(scenario())


def test_a_deadline_on_the_way_ends_the_work(
    engine: Countdown, make: Make, set_forward: Callable[[float], None]
) -> None:
    """Who is overtaken by its deadline is dropped at the next step and hears of it."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0), deadline=time.time() + 1000)]
        await engine.is_busy()
        tasks.append(await begin(batcher, Item(1, num_steps=100)))
        tasks.append(await begin(batcher, Item(2, num_steps=4), deadline=time.time() + 1000))
        engine.open(1)
        await engine.is_busy()
        set_forward(100)
        engine.open()
        return await kinds(tasks)

    assert [0, RequestTimeout, 2] == asyncio.run(scenario())
    assert engine.steps == [(0,), (1, 2), (2,), (2,), (2,)]


def test_an_answer_that_comes_too_late_is_none(
    engine: Countdown, make: Make, set_forward: Callable[[float], None]
) -> None:
    """A backend may have cut it short at the deadline, so it is not given out as whole."""
    batcher = make()

    async def scenario() -> list[Any]:
        task = await begin(batcher, 1)
        await engine.is_busy()
        set_forward(100)
        engine.open()
        return await kinds([task])

    assert [RequestTimeout] == asyncio.run(scenario())


def test_a_full_queue_refuses_and_says_when_to_return(engine: Countdown, make: Make) -> None:
    """Beyond max_queue requests are refused, with a Retry-After; those admitted are answered."""
    batcher = make(max_queue=2)

    async def scenario() -> tuple[Overloaded, list[Any]]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (1, 2)]
        with pytest.raises(Overloaded) as refused:
            await batcher.submit(Item(3), a_run())
        engine.open()
        return refused.value, await kinds(tasks)

    refused, answers = asyncio.run(scenario())
    assert answers == [0, 1, 2]
    assert refused.headers()["Retry-After"] == "1"  # nothing has been measured yet


def test_an_expensive_queue_refuses_and_says_when_to_return(engine: Countdown, make: Make) -> None:
    """Beyond max_cost too; the time is what those who wait will cost at the pace so far."""
    batcher = make(max_cost=10.0)

    async def scenario() -> tuple[Batched[Said], Overloaded, list[Any]]:
        first = await begin(batcher, Item(0, num_steps=2), cost=4.0)
        await engine.is_busy()
        left = await begin(batcher, Item(9, num_steps=100))
        engine.open(1)
        await engine.is_busy()
        await leave(left)
        engine.open(1)
        measured = await first
        assert measured.share == 3 / 4
        tasks = [await begin(batcher, 1)]
        await engine.is_busy()
        tasks += [await begin(batcher, item, cost=cost) for item, cost in ((2, 7.0), (3, 2.0))]
        with pytest.raises(Overloaded) as refused:
            await batcher.submit(Item(4), a_run(), cost=1.5)
        tasks.append(await begin(batcher, 5, cost=1.0))
        engine.open()
        return measured, refused.value, await kinds(tasks)

    measured, refused, answers = asyncio.run(scenario())
    assert answers == [1, 2, 3, 5]
    pace = measured.ran_s * measured.share / 4  # seconds of the model's time for a cost of 1
    assert refused.retry_after_s == pytest.approx((7 + 2) * pace)
    assert refused.headers()["Retry-After"] == "1"


def test_the_largest_request_is_served_when_nobody_waits(engine: Countdown, make: Make) -> None:
    """One that costs more than may wait is refused only beside others."""
    batcher = make(max_cost=10.0)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0, cost=99.0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item, cost=cost) for item, cost in ((1, 99.0), (2, 0.1))]
        engine.open()
        return await kinds(tasks)

    assert [0, 1, Overloaded] == asyncio.run(scenario())


def test_who_leaves_is_never_run_and_frees_a_place(engine: Countdown, make: Make) -> None:
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


def test_the_engine_outlives_everyone_leaving(engine: Countdown, make: Make) -> None:
    """When all callers leave while an idle engine waits for more, it waits for the next ones."""
    engine.micro_batch = 2
    batcher = make(max_wait_s=60.0)
    engine.open()

    async def scenario() -> list[Any]:
        await leave(await begin(batcher, 1))
        batcher.check(SOON_S)
        return await kinds([await begin(batcher, item) for item in (2, 3)])

    assert asyncio.run(scenario()) == [2, 3]
    assert engine.steps == [(2, 3)]


def test_who_leaves_on_the_way_is_dropped_at_the_next_step(engine: Countdown, make: Make) -> None:
    """Its slot goes to the next, and those beside it lose nothing."""
    engine.num_slots = 2
    batcher = make()

    async def scenario() -> list[Any]:
        left = await begin(batcher, Item(0, num_steps=100))
        await engine.is_busy()
        tasks = [await begin(batcher, Item(1, num_steps=3)), await begin(batcher, 2)]
        engine.open(1)
        await engine.is_busy()
        await leave(left)
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2]
    assert engine.steps == [(0,), (0, 1), (1, 2), (1,)]


def test_a_batch_that_nobody_wants_any_more_ends(engine: Countdown, make: Make) -> None:
    """After the last caller has left no step is made; the next request runs at once."""
    batcher = make()

    async def scenario() -> list[Any]:
        left = await begin(batcher, Item(1, num_steps=100))
        await engine.is_busy()
        await leave(left)
        engine.open()
        return await kinds([batcher.submit(Item(2), a_run())])

    assert asyncio.run(scenario()) == [2]
    assert engine.steps == [(1,), (2,)]


@pytest.mark.parametrize("culprits", [{1}, {4}, {1, 4}, {2, 3}, {1, 2, 3, 4}])
@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_poison_item_fails_alone(
    engine: Countdown, make: Make, culprits: set[int], fails_at: int
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


def test_a_failing_step_costs_nobody_an_answer(engine: Countdown, make: Make) -> None:
    """Those who were far on the way begin again by themselves, then who waits; all are whole."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, num_steps=3))]
        await engine.is_busy()
        guilty = poison(2, fails_at=2, num_steps=2)
        tasks += [await begin(batcher, Item(1, num_steps=2)), await begin(batcher, guilty)]
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


def test_a_failed_step_is_not_repeated_for_those_who_left(
    engine: Countdown, make: Make, set_forward: Callable[[float], None]
) -> None:
    """Callers who have left or are late meanwhile are not tried again."""
    batcher = make(max_wait_s=60.0)

    async def scenario() -> list[Any]:
        patient = time.time() + 1000
        items = [Item(1), Item(2), poison(3), Item(4)]
        tasks = [await begin(batcher, item, deadline=patient) for item in items[:3]]
        tasks.append(await begin(batcher, items[3]))
        await engine.is_busy()
        await leave(tasks[1])
        set_forward(100)
        engine.open()
        return await kinds(tasks)

    assert [1, asyncio.CancelledError, ValueError, RequestTimeout] == asyncio.run(scenario())
    assert engine.steps == [(1, 2, 3, 4), (1,), (3,)]


def test_too_many_for_the_memory_begin_in_smaller_batches(engine: Countdown, make: Make) -> None:
    """A micro-batch that does not fit is halved until it does, and stays so; nobody fails."""
    engine.fits = 2
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(item, num_steps=2)) for item in range(1, 7)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4, 5, 6]
    assert engine.begun == [(0,), (1, 2, 3, 4), (1, 2), (3, 4), (5, 6)]


def test_one_that_does_not_fit_by_itself_is_refused(engine: Countdown, make: Make) -> None:
    """There is nothing smaller to try; the engine goes on."""
    batcher = make(max_wait_s=60.0)
    engine.open()

    async def scenario() -> list[Any]:
        huge = poison(1, fails_at=0, error=MemoryError)
        return await kinds([await begin(batcher, item) for item in (huge, 2, 3, 4)])

    assert [MemoryError, 2, 3, 4] == asyncio.run(scenario())
    assert engine.begun == [(1, 2, 3, 4), (1, 2), (1,), (2,), (3,), (4,)]
    batcher.check(SOON_S)


def test_a_long_one_takes_turns_with_those_who_wait(engine: Countdown, make: Make) -> None:
    """After so many steps it gives up its slot, and goes on where it was when it is its turn."""
    engine.num_slots = engine.micro_batch = 1
    batcher = make(turn_steps=3)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(1, num_steps=8))]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(2, num_steps=4)), await begin(batcher, 3)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2, 3]
    turns = [[1] * 3, [2] * 3, [3], [1] * 3, [2], [1] * 2]
    assert engine.steps == [(number,) for turn in turns for number in turn]


def test_nobody_gives_up_a_slot_that_nobody_needs(engine: Countdown, make: Make) -> None:
    """With a free slot, or with nobody waiting, a sequence goes on to its end."""
    batcher = make(turn_steps=1)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(1, num_steps=9))]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(item, num_steps=3)) for item in (2, 3, 4)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2, 3, 4]
    assert engine.begun == [(1,), (2, 3, 4)]


def test_the_more_urgent_keeps_its_slot(engine: Countdown, make: Make) -> None:
    """Who waits gets the slot of one that is no more urgent, the one that has had most steps."""
    engine.num_slots = 3
    batcher = make(turn_steps=1)

    async def scenario() -> list[Any]:
        urgent = await begin(batcher, Item(1, num_steps=6), priority=0)
        await engine.is_busy()
        tasks = [urgent, await begin(batcher, Item(2, num_steps=6), priority=1)]
        engine.open(1)
        await engine.is_busy()
        tasks.append(await begin(batcher, Item(3, num_steps=6), priority=1))
        engine.open(1)
        await engine.is_busy()
        tasks.append(await begin(batcher, Item(4), priority=1))
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2, 3, 4]
    assert engine.steps[:4] == [(1,), (1, 2), (1, 2, 3), (1, 3, 4)]


def test_a_backend_that_cannot_suspend_goes_on(engine: Countdown, make: Make) -> None:
    """Who waits then waits for the end of another."""
    engine.num_slots = engine.micro_batch = 1
    engine.can_suspend = False
    batcher = make(turn_steps=1)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(1, num_steps=3))]
        await engine.is_busy()
        tasks.append(await begin(batcher, 2))
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [1, 2]
    assert engine.steps == [(1,), (1,), (1,), (2,)]


def test_one_that_leaves_while_suspended_is_forgotten(engine: Countdown, make: Make) -> None:
    """The backend keeps nothing of it, and it never goes on."""
    engine.num_slots = engine.micro_batch = 1
    batcher = make(turn_steps=1)

    async def scenario() -> list[Any]:
        left = await begin(batcher, Item(1, num_steps=3))
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


def test_an_idle_engine_forgets_who_leaves_while_suspended(engine: Countdown, make: Make) -> None:
    """It sleeps in hope of others to go on with, and is woken for this."""
    engine.num_slots = engine.micro_batch = 2
    batcher = make(turn_steps=1, max_wait_s=60.0)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(item, num_steps=3)) for item in (1, 2)]
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


def test_one_that_is_suspended_when_a_step_fails_begins_anew(engine: Countdown, make: Make) -> None:
    """A reset forgets what was suspended too; its answer is as whole as any."""
    engine.num_slots = engine.micro_batch = 1
    batcher = make(turn_steps=2)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(1, num_steps=3))]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (poison(2), Item(3))]
        engine.open()
        return await kinds(tasks)

    assert [1, ValueError, 3] == asyncio.run(scenario())
    assert engine.steps == [(1,), (1,), (2,), (3,), (1,), (1,), (1,)]


@pytest.mark.parametrize("fails_at", [0, 1])
def test_one_that_was_suspended_can_fail_to_go_on(
    engine: Countdown, make: Make, fails_at: int
) -> None:
    """Who begins beside it may make the whole micro-batch fail; it is still known, or anew."""
    engine.num_slots = engine.micro_batch = 2
    batcher = make(turn_steps=2)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(item, num_steps=5)) for item in (1, 2)]
        await engine.is_busy()
        tasks += [await begin(batcher, Item(item, num_steps=4)) for item in (3, 4)]
        tasks += [await begin(batcher, poison(5, fails_at))]
        engine.open()
        return await kinds(tasks)

    assert [1, 2, 3, 4, ValueError] == asyncio.run(scenario())


def test_what_a_backend_invents_answers_nobody(engine: Countdown, make: Make) -> None:
    """A result twice, or for a job that is not under way, changes nothing."""
    batcher = make()
    honest = engine.step

    def step() -> list[tuple[Job[Item], Said]]:
        return [*honest() * 2, (Job(Item(9)), (9, 9))]

    engine.step = step  # type: ignore[method-assign]
    engine.open()

    async def scenario() -> list[Any]:
        return await kinds([await begin(batcher, item) for item in (1, 2)])

    assert asyncio.run(scenario()) == [1, 2]
    batcher.check(SOON_S)


def dead(batcher: Batcher[Item, Said]) -> None:
    """See that the engine thread is."""
    batcher._thread.join(SOON_S)
    with pytest.raises(InternalError, match="died"):
        batcher.check(SOON_S)


@DYING
@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_dying_engine_answers_everyone(engine: Countdown, make: Make, fails_at: int) -> None:
    """When the thread dies, those under way, those waiting and those to come get an error."""
    batcher = make()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, Item(0, num_steps=100))]
        await engine.is_busy()
        deadly = poison(1, fails_at, error=SystemExit)
        tasks += [await begin(batcher, item) for item in (deadly, *range(2, 9))]
        engine.open(2)
        return await kinds([*tasks, batcher.submit(Item(9), a_run())])

    assert [InternalError] * 10 == asyncio.run(scenario())
    dead(batcher)


@DYING
def test_an_engine_that_dies_over_a_suspect_answers_all(engine: Countdown, make: Make) -> None:
    """Death while some are tried again leaves nobody of the others waiting."""
    batcher = make(max_wait_s=60.0)
    engine.open()

    async def scenario() -> list[Any]:
        items = [Item(1), poison(2, 2, num_steps=2, error=SystemExit), poison(3), Item(4)]
        return await kinds([await begin(batcher, item) for item in items])

    assert [1, InternalError, InternalError, InternalError] == asyncio.run(scenario())
    dead(batcher)


@DYING
def test_an_engine_that_cannot_be_reset_answers_everyone(engine: Countdown, make: Make) -> None:
    """A device that is lost fails the step, and then the reset."""
    batcher = make(max_wait_s=60.0)

    def reset() -> None:
        raise RuntimeError("the device is lost")

    engine.reset = reset  # type: ignore[method-assign]
    engine.open()

    async def scenario() -> list[Any]:
        items = [Item(1), poison(2), Item(3), Item(4)]
        return await kinds([await begin(batcher, item) for item in items])

    assert [InternalError] * 4 == asyncio.run(scenario())
    dead(batcher)


@DYING
def test_an_engine_that_cannot_be_prepared_is_dead(engine: Countdown, make: Make) -> None:
    """What was to be done first has failed, so nothing is done."""

    def prepare() -> None:
        raise OSError("no such core")

    batcher = make(prepare=prepare)
    dead(batcher)
    assert [InternalError] == asyncio.run(kinds([batcher.submit(Item(1), a_run())]))


def test_the_engine_thread_is_prepared_before_any_work(engine: Countdown, make: Make) -> None:
    """Once, and on the thread itself."""
    prepared: list[int] = []
    batcher = make(prepare=lambda: prepared.append(threading.get_ident()))
    engine.open()
    asyncio.run(batcher.submit(Item(1), a_run()))
    assert prepared == [batcher._thread.ident]


def test_a_step_that_takes_too_long_is_a_stall(engine: Countdown, make: Make) -> None:
    """check() is quiet for an idle and a working engine, and speaks up for a stuck one."""
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


def test_many_short_steps_are_no_stall(engine: Countdown, make: Make) -> None:
    """Time is taken per step: a sequence may take as long as it likes."""
    batcher = make()

    def is_over(began: float) -> bool:
        return batcher._busy_since != began

    async def scenario() -> None:
        task = await begin(batcher, Item(1, num_steps=3))
        for _ in range(3):
            await engine.is_busy()
            began = batcher._busy_since
            assert began
            batcher.check(SOON_S)
            engine.open(1)
            await asyncio.to_thread(until, partial(is_over, began))
        await task

    asyncio.run(scenario())


def test_closing_finishes_the_step_and_refuses_the_rest(engine: Countdown, make: Make) -> None:
    """Who ends with the step gets an answer; who goes on, waits or comes later gets an error."""
    batcher = make(max_wait_s=60.0)

    async def scenario() -> list[Any]:
        items = [Item(1), Item(2, num_steps=2), Item(3), Item(4)]
        tasks = [await begin(batcher, item) for item in items]
        await engine.is_busy()
        tasks.append(await begin(batcher, 5))
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.to_thread(until, lambda: batcher._closed)
        engine.open()
        await closing
        return await kinds([*tasks, batcher.submit(Item(6), a_run())])

    assert [1, InternalError, 3, 4, InternalError, InternalError] == asyncio.run(scenario())
    assert engine.steps == [(1, 2, 3, 4)]


def test_an_idle_engine_closes_at_once(make: Make) -> None:
    """It sleeps until something changes, and this is something."""
    batcher = make(max_wait_s=60.0)
    batcher.close()
    batcher.close()
    assert not batcher._thread.is_alive()


def test_progress_is_told_in_order_to_who_asked(engine: Countdown, make: Make) -> None:
    """Now and then, on the caller's own event loop, before the result; others are not asked for."""
    batcher = make()
    engine.open()
    heard: list[tuple[Said, int]] = []

    async def scenario() -> Said:
        other = await begin(batcher, Item(2, num_steps=12))
        answer = await batcher.submit(
            Item(1, num_steps=11),
            a_run(),
            report=lambda said: heard.append((said, threading.get_ident())),
        )
        assert [said for said, _ in heard] == [(1, 4), (1, 8)]
        await other
        return answer.result

    assert asyncio.run(scenario()) == (1, 11)
    assert {thread for _, thread in heard} == {threading.get_ident()}
    assert engine.told == [1, 1]


def test_a_loop_that_is_closed_is_not_told() -> None:
    """A caller may be gone with its whole event loop."""
    loop = asyncio.new_event_loop()
    loop.close()
    heard: list[Said] = []
    tell(loop, heard.append, (1, 4))
    assert heard == []


class Image:
    """Something large."""


def test_an_image_is_let_go_with_its_answer() -> None:
    """No circle of references keeps it until the next collection of garbage."""

    class Echo(Countdown):
        """Answers as soon as it is asked."""

        def admit(self, jobs: Sequence[Job[Any]]) -> None:
            self.jobs = list(jobs)

        def step(self) -> list[tuple[Job[Any], Said]]:
            jobs, self.jobs = self.jobs, []
            return [(job, (0, 1)) for job in jobs]

    batcher: Batcher[Any, Said] = Batcher(Echo(), max_wait_s=0.0, max_queue=9)
    image = Image()
    known = weakref.ref(image)

    async def scenario(items: list[Image]) -> None:
        await batcher.submit(items.pop(), a_run())

    gc.disable()
    try:
        items = [image]
        del image
        asyncio.run(scenario(items))
        until(lambda: known() is None)
    finally:
        gc.enable()
        batcher.close()


class Ledger(Countdown):
    """An open backend that remembers when a caller had already left."""

    def __init__(self, num_slots: int, micro_batch: int, fits: int) -> None:
        super().__init__(num_slots, micro_batch, fits)
        self.gone: set[int] = set()
        self.ran: set[int] = set()
        self.late: list[int] = []
        self.open(100_000)

    def admit(self, jobs: Sequence[Job[Item]]) -> None:
        """See Countdown."""
        fresh = set(numbers(jobs)) - self.ran
        self.late += fresh & self.gone
        self.ran |= fresh
        super().admit(jobs)


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
    num_slots=st.integers(1, 6),
    micro_batch=st.integers(1, 6),
    fits=st.integers(1, 6),
    max_queue=st.integers(1, 12),
    max_wait_s=st.sampled_from([0.0, 0.0005, 0.002]),
    turn_steps=st.integers(1, 6),
    ending=st.sampled_from(["wait", "close"]),
)
def test_every_admitted_request_is_answered_exactly_once(
    events: list[tuple[str, int]],
    num_slots: int,
    micro_batch: int,
    fits: int,
    max_queue: int,
    max_wait_s: float,
    turn_steps: int,
    ending: str,
) -> None:
    """Whatever arrives, leaves, fails or expires, each request gets its one right answer."""
    ledger = Ledger(num_slots, min(micro_batch, num_slots), fits)
    batcher: Batcher[Item, Said] = Batcher(
        ledger, max_wait_s=max_wait_s, max_queue=max_queue, turn_steps=turn_steps
    )
    items = {
        number: poison(number, value, num_steps=4) if kind == "poison" else Item(number, 1 + value)
        for number, (kind, value) in enumerate(events)
    }
    answers: dict[int, list[Any]] = {}
    left: set[int] = set()

    async def request(item: int, run: Request) -> None:
        try:
            answers[item].append((await batcher.submit(items[item], run)).result)
        except asyncio.CancelledError:
            answers[item].append(asyncio.CancelledError)
        except Exception as error:
            answers[item].append(type(error))

    async def scenario() -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        for number, (kind, value) in enumerate(events):
            if kind in ("arrive", "poison", "late"):
                answers[number] = []
                patience = 0.001 * value if kind == "late" else 60
                run = a_run(deadline=time.time() + patience, priority=value)
                tasks[number] = asyncio.create_task(request(number, run))
            elif kind == "leave" and tasks:
                item = list(tasks)[value % len(tasks)]
                left.add(item)
                with batcher._changed:  # nobody is taken out of the queue meanwhile
                    waiting = {entry.job.item.number for entry in batcher._schedule._waiting}
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
        {InternalError} if ending == "close" else set()
    )
    for number, given_ in answers.items():
        # A task that is cancelled before its first step never reaches the batcher.
        assert len(given_) == 1 or (number in left and number not in ledger.ran)
        item = items[number]
        right: Any = ValueError if item.fails_at is not None else (number, item.num_steps)
        assert set(given_) <= {right} | ends
        if number in ledger.ran:
            assert Overloaded not in given_
    assert ledger.faults == []
    assert ledger.late == []
    assert ledger.is_empty() or ending == "close"
    assert (len(batcher._schedule), batcher._running) == (0, {})


def entry(item: int, **fields: Any) -> Entry[Item, Said]:
    """A request as the batcher keeps it."""
    run = a_run(**fields)
    future: Future[Batched[Said]] = Future()
    return Entry(0, item, Job(Item(item), Interest(future, run.deadline)), run, future)


def test_who_is_late_when_the_engine_comes_is_not_run() -> None:
    """Those begin who are there and in time, whatever the timers have come to."""
    now = time.time()
    entries = [entry(1), entry(2, deadline=now - 1), entry(3, start_by=now - 1), entry(4)]
    entries[3].future.cancel()
    assert in_time(entries) == entries[:1]
    assert isinstance(entries[1].future.exception(0), RequestTimeout)
    assert isinstance(entries[2].future.exception(0), StartTimeout)


def test_an_answer_does_not_disturb_who_has_left() -> None:
    """A caller may leave at the very moment at which its request ends or expires."""
    gone = entry(1)
    gone.future.cancel()
    refuse(gone, RequestTimeout())
    settle(gone, Batched((1, 1), 0.0, 0.0, 1.0))
    assert gone.future.cancelled()


def test_who_is_unwanted_stays_so(set_forward: Callable[[float], None]) -> None:
    """Also when the clock is set back: what was cut short is never given out as whole."""
    late = entry(1)
    assert late.job.is_wanted()
    set_forward(100)
    assert not late.job.is_wanted()
    set_forward(0)
    assert not late.job.is_wanted()


def test_it_counts_who_waits_and_who_runs(engine: Countdown, make: Make) -> None:
    """The policy that counts replicas asks; who is answered counts no more."""
    batcher = make()

    async def scenario() -> None:
        asked = [asyncio.create_task(batcher.submit(Item(1), a_run())) for _ in range(6)]
        async with asyncio.timeout(SOON_S):
            while batcher.num_ongoing < 6:  # noqa: ASYNC110, it is looked at from outside
                await asyncio.sleep(0.001)
        engine.open()
        await asyncio.gather(*asked)

    asyncio.run(scenario())
    assert batcher.num_ongoing == 0


def test_it_tells_what_the_engine_has_done(engine: Countdown, make: Make) -> None:
    """Steps, requests in them, why batches began, and the time that was spent in them."""
    batcher = make()
    assert (batcher.num_slots, batcher.num_running, batcher.num_waiting) == (4, 0, 0)

    async def scenario() -> None:
        first = await begin(batcher, Item(1, num_steps=2))
        await asyncio.to_thread(engine.entered.acquire, timeout=SOON_S)
        others = [await begin(batcher, Item(number)) for number in (2, 3, 4, 5)]
        assert (batcher.num_running, batcher.num_waiting) == (1, 4)
        engine.open()
        await asyncio.gather(first, *others)

    asyncio.run(scenario())
    tally = batcher.tally
    assert tally.steps == len(engine.steps)
    assert tally.rows == sum(len(step) for step in engine.steps) == 6
    assert dict(tally.begun) == {"waited": 1, "joined": 1} | dict(tally.begun)
    assert sum(tally.begun.values()) == len(engine.begun)
    assert tally.busy_s > 0
