"""Calls that are made at the same time travel together."""

import asyncio
from collections.abc import Sequence

import pytest

from deployments.errors import StoreUnavailable
from deployments.jobs.coalescer import Coalescer

pytestmark = pytest.mark.anyio


class Carrier:
    """Doubles numbers once it may go on; keeps the groups in which they came."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.groups: list[list[int]] = []

    async def send(self, numbers: Sequence[int]) -> Sequence[int | BaseException]:
        """A group. It fails as a whole with 0, and for one number alone with 13."""
        self.groups.append(list(numbers))
        await self.may_go_on.wait()
        if 0 in numbers:
            raise ZeroDivisionError
        return [ValueError() if number == 13 else 2 * number for number in numbers]


async def started(call: Coalescer[int, int], numbers: Sequence[int]) -> "list[asyncio.Task[int]]":
    """Calls that have been made."""
    tasks = [asyncio.create_task(call(number)) for number in numbers]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_calls_wait_for_the_group_under_way() -> None:
    """Those made meanwhile share the next one, in their order."""
    carrier = Carrier()
    call: Coalescer[int, int] = Coalescer(carrier.send, "test")
    tasks = await started(call, [1]) + await started(call, [2, 3, 4])
    carrier.may_go_on.set()

    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert carrier.groups == [[1], [2, 3, 4]]


async def test_several_groups_may_be_under_way() -> None:
    """As many as were allowed."""
    carrier = Carrier()
    call: Coalescer[int, int] = Coalescer(carrier.send, "test", max_under_way=2)
    tasks = [task for number in (1, 2, 3, 4) for task in await started(call, [number])]
    assert carrier.groups == [[1], [2]]
    carrier.may_go_on.set()

    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert carrier.groups == [[1], [2], [3, 4]]


async def test_only_so_many_calls_wait() -> None:
    """A store that does not answer holds a bounded number of callers."""
    carrier = Carrier()
    call: Coalescer[int, int] = Coalescer(carrier.send, "test", max_waiting=5)
    tasks = await started(call, [1]) + await started(call, [2, 3, 4, 5, 6])
    with pytest.raises(StoreUnavailable):
        await call(7)
    carrier.may_go_on.set()

    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10, 12]


async def test_a_call_fails_for_itself_alone() -> None:
    """Whether it fails by its answer, or makes the whole group fail."""
    carrier = Carrier()
    carrier.may_go_on.set()
    call: Coalescer[int, int] = Coalescer(carrier.send, "test")
    answers = await asyncio.gather(*map(call, [1, 13, 0, 2]), return_exceptions=True)

    assert [type(each) for each in answers] == [int, ValueError, ZeroDivisionError, int]
    assert (answers[0], answers[3]) == (2, 4)


async def test_it_is_finished_when_no_call_is_under_way() -> None:
    """A call whose caller was cancelled is waited for, too."""
    carrier = Carrier()
    call: Coalescer[int, int] = Coalescer(carrier.send, "test")
    [task] = await started(call, [1])
    task.cancel()
    finishing = asyncio.create_task(call.finished())
    await asyncio.sleep(0)
    assert not finishing.done()
    carrier.may_go_on.set()
    await finishing

    assert carrier.groups == [[1]]
