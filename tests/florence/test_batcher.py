"""The batcher: every admitted request is answered exactly once, whatever happens around it."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
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
from deployments.florence.batcher import (
    Batch,
    Batched,
    Batcher,
    Entry,
    IsWanted,
    in_time,
    refuse,
    settle,
)
from deployments.florence.run import Run

SOON_S = 5.0  # the longest that a test waits for what must happen


class Engine:
    """A model whose passes begin when `gate` is open, and end when it likes."""

    def __init__(self, poison: frozenset[int] = frozenset()) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.poison = poison

    def __call__(self, items: Sequence[int], _is_wanted: IsWanted) -> list[int]:
        """Ten times each item, unless one of them is poison."""
        self.batches.append(tuple(items))
        self.entered.release()
        assert self.gate.acquire(timeout=SOON_S)
        if self.poison.intersection(items):
            raise ValueError("poison")
        return [10 * item for item in items]

    async def is_busy(self) -> None:
        """Wait for the next pass to begin."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=SOON_S)

    def open(self, passes: int = 1000) -> None:
        """Let `passes` passes through."""
        self.gate.release(passes)


@pytest.fixture
def engine() -> Engine:
    """A model that waits for its gate."""
    return Engine()


Make = Callable[..., Batcher[int, int]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes batchers, and closes them."""
    made: list[tuple[Batcher[int, int], Callable[..., Any]]] = []

    def batcher(
        work: Callable[[Sequence[int], IsWanted], Sequence[int]], **limits: Any
    ) -> Batcher[int, int]:
        chosen = {"max_batch_size": 4, "max_wait_s": 0.0, "max_queue": 100} | limits
        made.append((Batcher(work, **chosen), work))
        return made[-1][0]

    yield batcher
    for opened, work in made:
        if isinstance(work, Engine | Stepper):
            work.gate.release(1000)
        opened.close()


def a_run(**fields: Any) -> Run:
    """A run with a minute to go."""
    whole: dict[str, Any] = {"id": "r", "task": "t", "image_url": "u", "deadline": time.time() + 60}
    return Run(**whole | fields)


async def begin(batcher: Batcher[int, int], item: int, **fields: Any) -> asyncio.Task[Batched[int]]:
    """A request that has been admitted, or refused, when this returns."""
    task = asyncio.create_task(batcher.submit(item, a_run(**fields)))
    await asyncio.sleep(0)
    return task


async def kinds(tasks: Sequence[Awaitable[Batched[int]]]) -> list[Any]:
    """What became of each request: its result, or the class of its error."""
    async with asyncio.timeout(SOON_S):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(f) if isinstance(f, BaseException) else f.result for f in found]


def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_request_is_answered_and_measured(make: Make) -> None:
    """An answer says how long it waited, how long its pass took and how large the batch was."""
    batcher = make(lambda items, _: [10 * item for item in items])
    answer = asyncio.run(batcher.submit(7, a_run()))
    assert (answer.result, answer.batch_size) == (70, 1)
    assert 0 <= answer.waited_s < SOON_S
    assert 0 <= answer.ran_s < SOON_S


def test_a_free_engine_takes_all_that_waits(engine: Engine, make: Make) -> None:
    """What arrives during a pass runs together, in batches of at most the largest size."""
    batcher = make(engine)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in range(1, 7)]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 10, 20, 30, 40, 50, 60]
    assert engine.batches == [(0,), (1, 2, 3, 4), (5, 6)]


def test_an_idle_engine_gives_others_a_moment_to_join(engine: Engine, make: Make) -> None:
    """Requests within max_wait of the first share its pass; a full batch goes before the time."""
    batcher = make(engine, max_wait_s=SOON_S, max_batch_size=3)
    engine.open()

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 1)]
        await asyncio.sleep(0.01)
        tasks += [await begin(batcher, item) for item in (2, 3)]
        return await kinds(tasks)

    began = time.perf_counter()
    assert asyncio.run(scenario()) == [10, 20, 30]
    assert engine.batches == [(1, 2, 3)]
    assert time.perf_counter() - began < SOON_S / 2


def test_an_idle_engine_does_not_wait_for_ever(engine: Engine, make: Make) -> None:
    """A lone request runs after max_wait."""
    batcher = make(engine, max_wait_s=0.02)
    engine.open()
    answer = asyncio.run(batcher.submit(1, a_run()))
    assert answer.batch_size == 1
    assert 0.015 < answer.waited_s < SOON_S / 2


def test_a_busy_engine_does_not_wait_for_more(engine: Engine, make: Make) -> None:
    """What waits when a pass ends goes at once, however long an idle engine would have waited."""
    batcher = make(engine, max_wait_s=60.0, max_batch_size=2)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, item) for item in (1, 2)]
        await engine.is_busy()
        tasks.append(await begin(batcher, 3))
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [10, 20, 30]
    assert engine.batches == [(1, 2), (3,)]


def test_the_smallest_priority_goes_first(engine: Engine, make: Make) -> None:
    """Among those that wait, priority decides, and then arrival."""
    batcher = make(engine, max_batch_size=2)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        order = ((1, 5), (2, 1), (3, 0), (4, 1), (5, 0))
        tasks += [await begin(batcher, item, priority=priority) for item, priority in order]
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 10, 20, 30, 40, 50]
    assert engine.batches == [(0,), (3, 5), (2, 4), (1,)]


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
    engine: Engine, make: Make, limits: dict[str, float], expected: type[ServiceError]
) -> None:
    """A request whose time is over is refused while the engine is still busy, and never runs."""
    batcher = make(engine)

    async def scenario() -> tuple[list[Any], float]:
        first = await begin(batcher, 0)
        await engine.is_busy()
        began = time.perf_counter()
        times = {name: time.time() + seconds for name, seconds in limits.items()}
        refused = await kinds([batcher.submit(1, a_run(**times))])
        waited = time.perf_counter() - began
        engine.open()
        await first
        return refused, waited

    refused, waited = asyncio.run(scenario())
    assert [expected] == refused
    assert waited < 1
    assert engine.batches == [(0,)]


def test_a_run_that_has_begun_is_not_interrupted(engine: Engine, make: Make) -> None:
    """The batcher's limits are for the wait; who is in a pass gets its answer."""
    batcher = make(engine)

    async def scenario() -> list[Any]:
        task = await begin(batcher, 1, start_by=time.time() + 0.02)
        await engine.is_busy()
        await asyncio.sleep(0.04)
        engine.open()
        return await kinds([task])

    assert asyncio.run(scenario()) == [10]


def test_a_full_queue_refuses_and_says_when_to_return(engine: Engine, make: Make) -> None:
    """Beyond max_queue requests are refused, with a Retry-After; those admitted are answered."""
    batcher = make(engine, max_queue=2)

    async def scenario() -> tuple[Overloaded, list[Any]]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (1, 2)]
        with pytest.raises(Overloaded) as refused:
            await batcher.submit(3, a_run())
        engine.open()
        return refused.value, await kinds(tasks)

    refused, answers = asyncio.run(scenario())
    assert answers == [0, 10, 20]
    assert int(refused.headers()["Retry-After"]) >= 1
    assert refused.retry_after_s == pytest.approx(2 / 4 * 0.1)  # before any pass is measured


def test_who_leaves_is_never_run_and_frees_a_place(engine: Engine, make: Make) -> None:
    """A cancelled caller's place in a full queue goes to the next."""
    batcher = make(engine, max_queue=1)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        left = await begin(batcher, 1)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        tasks.append(await begin(batcher, 2))
        engine.open()
        return await kinds(tasks)

    assert asyncio.run(scenario()) == [0, 20]
    assert engine.batches == [(0,), (2,)]


def test_the_engine_outlives_everyone_leaving(engine: Engine, make: Make) -> None:
    """When all callers leave while an idle engine waits for more, it waits for the next ones."""
    batcher = make(engine, max_wait_s=0.05)
    engine.open()

    async def scenario() -> list[Any]:
        left = await begin(batcher, 1)
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0.1)
        batcher.check(SOON_S)
        return await kinds([batcher.submit(2, a_run())])

    assert asyncio.run(scenario()) == [20]
    assert engine.batches == [(2,)]


def test_who_leaves_during_the_pass_costs_the_others_nothing(engine: Engine, make: Make) -> None:
    """Batch mates of a caller who left are answered."""
    batcher = make(engine)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (1, 2)]
        engine.open(1)
        await engine.is_busy()
        tasks[1].cancel()
        engine.open()
        return await kinds(tasks)

    assert [0, asyncio.CancelledError, 20] == asyncio.run(scenario())


@pytest.mark.parametrize("poison", [{1}, {4}, {1, 4}, {2, 3}, {1, 2, 3, 4}])
def test_a_poison_item_fails_alone(make: Make, poison: set[int]) -> None:
    """A failing pass is split until only those fail that make it fail."""
    engine = Engine(frozenset(poison))
    batcher = make(engine)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (1, 2, 3, 4)]
        engine.open()
        return await kinds(tasks)

    expected = [ValueError if item in poison else 10 * item for item in range(5)]
    assert expected == asyncio.run(scenario())
    assert engine.batches[:2] == [(0,), (1, 2, 3, 4)]
    batcher.check(SOON_S)


def test_a_model_that_miscounts_fails_its_batch(make: Make) -> None:
    """A pass with too few results answers nobody wrongly."""
    batcher = make(lambda _items, _: [])
    assert [AssertionError] == asyncio.run(kinds([batcher.submit(1, a_run())]))
    batcher.check(SOON_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dying_engine_answers_everyone(make: Make) -> None:
    """When the thread dies, those in the pass, those waiting and those to come get an error."""
    gate, entered = threading.Event(), threading.Event()

    def work(_items: Sequence[int], _is_wanted: IsWanted) -> list[int]:
        entered.set()
        assert gate.wait(SOON_S)
        raise SystemExit

    batcher = make(work)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 1)]
        assert await asyncio.to_thread(entered.wait, SOON_S)
        tasks += [await begin(batcher, item) for item in range(2, 9)]
        gate.set()
        return await kinds([*tasks, batcher.submit(9, a_run())])

    assert [InternalError] * 9 == asyncio.run(scenario())
    batcher._thread.join(SOON_S)
    with pytest.raises(InternalError, match="died"):
        batcher.check(SOON_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_dies_over_a_split_batch_answers_both_halves(make: Make) -> None:
    """Death in one half of a split batch leaves nobody of the other half waiting."""
    engine = Engine()

    def work(items: Sequence[int], is_wanted: IsWanted) -> list[int]:
        results = engine(items, is_wanted)
        if len(items) == 4:
            raise ValueError("split me")
        if len(items) == 2:
            raise SystemExit
        return results

    batcher = make(work)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks += [await begin(batcher, item) for item in (1, 2, 3, 4)]
        engine.open()
        return await kinds(tasks)

    assert [0] + [InternalError] * 4 == asyncio.run(scenario())


def test_a_pass_that_takes_too_long_is_a_stall(engine: Engine, make: Make) -> None:
    """check() is quiet for an idle and a working engine, and speaks up for a stuck one."""
    batcher = make(engine)
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


def test_closing_finishes_the_pass_and_refuses_the_rest(engine: Engine, make: Make) -> None:
    """Who is in the pass gets an answer; who waits or comes later gets an error."""
    batcher = make(engine)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, 0)]
        await engine.is_busy()
        tasks.append(await begin(batcher, 1))
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.to_thread(until, lambda: batcher._closed)
        engine.open()
        await closing
        return await kinds([*tasks, batcher.submit(2, a_run())])

    assert [0, InternalError, InternalError] == asyncio.run(scenario())
    assert engine.batches == [(0,)]


class Ledger:
    """A model that remembers what it ran and when a caller had already left."""

    def __init__(self, poison: frozenset[int]) -> None:
        self.poison = poison
        self.gone: set[int] = set()
        self.ran: set[int] = set()
        self.sizes: list[int] = []
        self.late: list[int] = []
        self.passes: list[frozenset[int]] = []

    def __call__(self, items: Sequence[int], is_wanted: IsWanted) -> list[int]:
        """Ten times each item, cut short to nothing when it is unwanted; poison raises."""
        self.sizes.append(len(items))
        fresh = frozenset(items) - self.ran
        self.late += [item for item in fresh if item in self.gone]
        self.ran |= fresh
        self.passes.append(frozenset(items))
        if self.poison.intersection(items):
            raise ValueError("poison")
        return [10 * item if is_wanted(number) else -1 for number, item in enumerate(items)]


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


@settings(max_examples=150, deadline=None)
@given(
    events=events,
    max_batch_size=st.integers(1, 5),
    max_queue=st.integers(1, 12),
    max_wait_s=st.sampled_from([0.0, 0.0005, 0.002]),
    ending=st.sampled_from(["wait", "close"]),
)
def test_every_admitted_request_is_answered_exactly_once(
    events: list[tuple[str, int]],
    max_batch_size: int,
    max_queue: int,
    max_wait_s: float,
    ending: str,
) -> None:
    """Whatever arrives, leaves, fails or expires, each request gets its one right answer."""
    poison = frozenset(i for i, (kind, _) in enumerate(events) if kind == "poison")
    ledger = Ledger(poison)
    batcher: Batcher[int, int] = Batcher(
        ledger, max_batch_size=max_batch_size, max_wait_s=max_wait_s, max_queue=max_queue
    )
    answers: dict[int, list[Any]] = {}
    left: set[int] = set()

    async def request(item: int, run: Run) -> None:
        try:
            answers[item].append((await batcher.submit(item, run)).result)
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
                with batcher._changed:  # nobody is taken out of the queue for a pass meanwhile
                    waiting = {entry.item for entry in batcher._waiting}
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
    for item, given_ in answers.items():
        # A task that is cancelled before its first step never reaches the batcher.
        assert len(given_) == 1 or (item in left and item not in ledger.ran)
        right: Any = ValueError if item in poison else 10 * item
        assert set(given_) <= {right} | ends
        if item in ledger.ran:
            assert set(given_) <= {right, RequestTimeout, asyncio.CancelledError}
    assert max(ledger.sizes, default=1) <= max_batch_size
    assert ledger.late == []
    assert batcher._waiting == []


def test_who_is_late_when_the_engine_comes_is_not_run() -> None:
    """A pass is made of those who are there and in time, whatever the timers have come to."""
    now = time.time()
    entries: list[Entry[int, int]] = [
        Entry(0, 0, 1, a_run()),
        Entry(0, 1, 2, a_run(deadline=now - 1)),
        Entry(0, 2, 3, a_run(start_by=now - 1)),
        Entry(0, 3, 4, a_run()),
    ]
    entries[3].future.cancel()
    assert in_time(entries) == entries[:1]
    assert isinstance(entries[1].future.exception(0), RequestTimeout)
    assert isinstance(entries[2].future.exception(0), StartTimeout)


def test_an_answer_does_not_disturb_who_has_left() -> None:
    """A caller may leave at the very moment at which its request ends or expires."""
    future: Future[Batched[int]] = Future()
    entry: Entry[int, int] = Entry(0, 0, 1, a_run(), future=future)
    future.cancel()
    refuse(entry, RequestTimeout())
    settle(entry, Batched(10, 0.0, 0.0, 1))
    assert future.cancelled()


class Stepper:
    """A model that steps through its gate, and ends when none of its items is wanted any more."""

    def __init__(self, steps: int, breaks: bool = False) -> None:
        self.steps = steps
        self.breaks = breaks
        self.batches: list[tuple[int, ...]] = []
        self.seen: list[list[bool]] = []
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int], is_wanted: IsWanted) -> list[int]:
        """Ten times each item, after as many steps as there are while one is wanted."""
        self.batches.append(tuple(items))
        for _ in range(self.steps):
            self.entered.release()
            assert self.gate.acquire(timeout=SOON_S)
            self.seen.append([is_wanted(number) for number in range(len(items))])
            if not any(self.seen[-1]):
                break
        if self.breaks and len(items) > 1:
            raise ValueError("split me")
        return [10 * item for item in items]

    async def step(self) -> None:
        """Wait until it stands before its gate."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=SOON_S)


async def leave(task: asyncio.Task[Batched[int]]) -> None:
    """Cancel a request and see it gone."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_pass_that_nobody_wants_can_stop(make: Make) -> None:
    """The work sees at its next step that its only caller has left; the next pass runs at once."""
    stepper = Stepper(steps=100)
    batcher = make(stepper)

    async def scenario() -> list[Any]:
        left = await begin(batcher, 1)
        await stepper.step()
        await leave(left)
        stepper.gate.release(1000)
        return await kinds([batcher.submit(2, a_run())])

    assert asyncio.run(scenario()) == [20]
    assert stepper.batches == [(1,), (2,)]
    assert stepper.seen[:2] == [[False], [True]]


def test_the_work_sees_who_is_still_wanted(make: Make) -> None:
    """One who leaves during the pass is unwanted from then on; the others get their results."""
    stepper = Stepper(steps=3)
    batcher = make(stepper, max_wait_s=SOON_S, max_batch_size=2)

    async def scenario() -> list[Any]:
        tasks = [await begin(batcher, item) for item in (1, 2)]
        await stepper.step()
        stepper.gate.release()
        await stepper.step()
        await leave(tasks[0])
        stepper.gate.release(2)
        return await kinds(tasks)

    assert [asyncio.CancelledError, 20] == asyncio.run(scenario())
    assert stepper.seen == [[True, True], [False, True], [False, True]]


def test_who_is_overtaken_by_the_deadline_in_a_pass_is_told(make: Make) -> None:
    """A deadline that passes during the pass makes the item unwanted and its caller hear of it."""
    stepper = Stepper(steps=2)
    batcher = make(stepper, max_wait_s=SOON_S, max_batch_size=2)

    async def scenario() -> list[Any]:
        deadline = time.time() + 0.5
        tasks = [await begin(batcher, 1, deadline=deadline), await begin(batcher, 2)]
        await stepper.step()
        await asyncio.to_thread(until, lambda: time.time() > deadline)
        stepper.gate.release(2)
        return await kinds(tasks)

    assert [RequestTimeout, 20] == asyncio.run(scenario())
    assert stepper.seen == [[False, True], [False, True]]


def test_a_batch_that_fails_goes_on_without_those_who_left(make: Make) -> None:
    """A failing pass is not repeated for callers who have left or are late meanwhile."""
    stepper = Stepper(steps=1, breaks=True)
    batcher = make(stepper, max_wait_s=SOON_S)

    async def scenario() -> list[Any]:
        deadline = time.time() + 0.5
        tasks = [await begin(batcher, item) for item in (1, 2, 3)]
        tasks.append(await begin(batcher, 4, deadline=deadline))
        await stepper.step()
        await leave(tasks[1])
        await asyncio.to_thread(until, lambda: time.time() > deadline)
        stepper.gate.release(1000)
        return await kinds(tasks)

    assert [10, asyncio.CancelledError, 30, RequestTimeout] == asyncio.run(scenario())
    assert stepper.batches == [(1, 2, 3, 4), (1,), (3,)]


def test_who_was_cut_short_is_never_given_a_result() -> None:
    """What was unwanted once stays so, also when the clock is set back."""
    entry: Entry[int, int] = Entry(0, 0, 1, a_run(deadline=time.time() - 1))
    batch = Batch([entry])
    assert not batch.is_wanted(0)
    entry.run = a_run()
    assert not batch.is_wanted(0)
    batch.answer([10], began=0.0, ran_s=0.0)
    assert isinstance(entry.future.exception(0), RequestTimeout)
