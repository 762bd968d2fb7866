"""A wake-up call reaches the worker, and many at once cost one."""

import asyncio

import pytest

from deployments.jobs import wakeup
from deployments.jobs.wakeup import Wakeup

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps too short to wait for."""
    monkeypatch.setattr(wakeup, "GAP_S", 0.01)


async def test_calls_of_one_moment_become_one() -> None:
    """Nobody is called for each of a thousand submits."""
    calls: list[float] = []

    async def wake() -> None:
        calls.append(asyncio.get_running_loop().time())

    wake_up = Wakeup(wake)
    for _ in range(1000):
        wake_up()
    await asyncio.sleep(0.05)

    assert len(calls) == 1


async def test_a_change_during_a_call_is_told_as_well() -> None:
    """What came too late for one call makes another."""
    calls: list[None] = []
    wake_up: Wakeup

    async def wake() -> None:
        calls.append(None)
        if len(calls) == 1:
            wake_up()

    wake_up = Wakeup(wake)
    wake_up()
    await asyncio.sleep(0.1)

    assert len(calls) == 2


async def test_a_call_that_fails_is_forgotten() -> None:
    """The worker polls as well; the next call goes out all the same."""
    calls: list[None] = []

    async def wake() -> None:
        calls.append(None)
        raise ConnectionError

    wake_up = Wakeup(wake)
    wake_up()
    await asyncio.sleep(0.05)
    wake_up()
    await asyncio.sleep(0.05)

    assert len(calls) == 2
