"""Those who ask for the same at the same time share the work, and nothing else."""

import asyncio

import pytest

from deployments.images.single_flight import SingleFlight

pytestmark = pytest.mark.anyio


class Work:
    """Ends when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        """How often it was begun before it ended."""
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self.begun


async def begun(
    flights: SingleFlight[int], work: Work, *keys: str
) -> list["asyncio.Task[tuple[int, bool]]"]:
    """Calls under way, one for each key."""
    calls = [asyncio.create_task(flights(key, work)) for key in keys]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return calls


async def test_one_piece_of_work_serves_all_who_ask_for_it() -> None:
    """The first began it; another key is another piece."""
    flights: SingleFlight[int] = SingleFlight()
    work = Work()
    calls = await begun(flights, work, "a", "a", "b")
    work.may_end.set()
    assert await asyncio.gather(*calls) == [(2, False), (2, True), (2, False)]


async def test_nothing_is_kept() -> None:
    """Who comes later begins anew, after success and after failure."""
    flights: SingleFlight[int] = SingleFlight()
    work = Work()
    work.may_end.set()
    assert await flights("a", work) == (1, False)
    work.error = ValueError("no")
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await flights("a", work)
    assert work.begun == 3
    assert flights._flights == {}


async def test_a_failure_is_everybodys() -> None:
    """Each gets the error."""
    flights: SingleFlight[int] = SingleFlight()
    work = Work()
    work.error = ValueError("no")
    calls = await begun(flights, work, "a", "a")
    work.may_end.set()
    assert await asyncio.gather(*calls, return_exceptions=True) == [work.error] * 2


@pytest.mark.parametrize("leaver", [0, 1])
async def test_who_leaves_takes_nothing_from_the_others(leaver: int) -> None:
    """The one that began it, too; its deadline is its own."""
    flights: SingleFlight[int] = SingleFlight()
    work = Work()
    calls = await begun(flights, work, "a", "a")
    left, stays = calls[leaver], calls[1 - leaver]
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    work.may_end.set()
    assert (await stays)[0] == 1
    assert (work.begun, work.cancelled) == (1, 0)


async def test_the_work_ends_with_the_last_who_leaves() -> None:
    """The next begins anew, even before the work has noticed."""
    flights: SingleFlight[int] = SingleFlight()
    work = Work()
    calls = await begun(flights, work, "a", "a")
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    [again] = await begun(flights, work, "a")
    work.may_end.set()
    assert await again == (2, False)
    assert work.cancelled == 1
