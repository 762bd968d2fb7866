"""Work that tells how far it is."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from deployments.florence.progress import progress

Tell = Callable[[str], None]


def run(work: Callable[[Tell], Any]) -> list[str]:
    """All that comes of `work`."""

    async def scenario() -> list[str]:
        return [value async for value in progress(work)]

    return asyncio.run(scenario())


def test_what_is_told_comes_before_the_result() -> None:
    """In order, when it is taken as fast as it is told."""

    async def work(tell: Tell) -> str:
        for value in ("a", "b"):
            tell(value)
            await asyncio.sleep(0.01)
        return "all"

    assert run(work) == ["a", "b", "all"]


def test_only_the_newest_waits() -> None:
    """Who takes slowly misses what is out of date."""

    async def work(tell: Tell) -> str:
        for value in ("a", "b", "c"):
            tell(value)
        await asyncio.sleep(0.01)
        return "all"

    assert run(work) == ["c", "all"]


def test_an_error_comes_where_the_result_would() -> None:
    """What was told before it is not lost."""
    taken = []

    async def work(tell: Tell) -> str:
        tell("a")
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    async def scenario() -> None:
        async for value in progress(work):
            taken.append(value)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(scenario())
    assert taken == ["a"]


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_work_ends_when_nobody_listens(is_cancelled: bool) -> None:
    """Whether the listener is cancelled while it waits, or leaves of its own accord."""
    ended = []

    async def work(tell: Tell) -> str:
        tell("a")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")
        return "all"

    async def listen() -> None:
        async with aclosing(progress(work)) as values:
            async for _ in values:
                if not is_cancelled:
                    return

    async def scenario() -> None:
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.01)
        if is_cancelled:
            listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert ended == ["work"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_a_deadline_in_the_work_holds_whoever_listens() -> None:
    """The listener may be another task at each step."""

    async def work(tell: Tell) -> str:
        async with asyncio.timeout(0.05):
            tell("a")
            await asyncio.sleep(30)
        return "all"

    async def scenario() -> str:
        values = progress(work)
        first = await asyncio.create_task(anext(values))
        with pytest.raises(TimeoutError):
            await asyncio.create_task(anext(values))
        return str(first)

    assert asyncio.run(scenario()) == "a"
