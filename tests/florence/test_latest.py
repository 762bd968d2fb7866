"""The latest report of a piece of work."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from deployments.florence.latest import latest

Report = Callable[[str], None]


def run(work: Callable[[Report], Any]) -> list[str]:
    """All that comes of `work`."""

    async def scenario() -> list[str]:
        return [value async for value in latest(work)]

    return asyncio.run(scenario())


def test_reports_come_before_the_result() -> None:
    """In order, when the consumer is as fast as the work."""

    async def work(report: Report) -> str:
        for value in ("a", "b"):
            report(value)
            await asyncio.sleep(0.01)
        return "all"

    assert run(work) == ["a", "b", "all"]


def test_only_the_newest_waits() -> None:
    """A slow consumer misses older values."""

    async def work(report: Report) -> str:
        for value in ("a", "b", "c"):
            report(value)
        await asyncio.sleep(0.01)
        return "all"

    assert run(work) == ["c", "all"]


def test_an_error_comes_where_the_result_would() -> None:
    """What was reported before it is not lost."""
    taken = []

    async def work(report: Report) -> str:
        report("a")
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    async def scenario() -> None:
        async for value in latest(work):
            taken.append(value)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(scenario())
    assert taken == ["a"]


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_work_ends_with_its_consumer(is_cancelled: bool) -> None:
    """Whether the consumer is cancelled while it waits, or stops by itself."""
    ended = []

    async def work(report: Report) -> str:
        report("a")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")
        return "all"

    async def consume() -> None:
        async with aclosing(latest(work)) as values:
            async for _ in values:
                if not is_cancelled:
                    return

    async def scenario() -> None:
        consuming = asyncio.create_task(consume())
        await asyncio.sleep(0.01)
        if is_cancelled:
            consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        assert ended == ["work"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_a_timeout_in_the_work_holds() -> None:
    """The consumer may be another task at each step."""

    async def work(report: Report) -> str:
        async with asyncio.timeout(0.05):
            report("a")
            await asyncio.sleep(30)
        return "all"

    async def scenario() -> str:
        values = latest(work)
        first = await asyncio.create_task(anext(values))
        with pytest.raises(TimeoutError):
            await asyncio.create_task(anext(values))
        return str(first)

    assert asyncio.run(scenario()) == "a"
