"""The gate: nobody is asked for nothing, and who waits before it gets through."""

import asyncio

import pytest

from deployments.jobs.readiness import Gate

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Workers:
    """Those behind the gate."""

    def __init__(self) -> None:
        self.are_there = False
        self.num_asked = 0

    async def ask(self) -> bool:
        self.num_asked += 1
        return self.are_there


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Not there yet; they are asked often."""
    monkeypatch.setattr("deployments.jobs.readiness.ASK_EVERY_S", 0.001)
    return Workers()


async def test_it_opens_when_they_are_there(workers: Workers) -> None:
    """Who waits for it, waits as long as they are away."""
    gate = Gate(workers.ask)
    opening = asyncio.create_task(gate.open())
    await asyncio.sleep(0.05)
    assert not opening.done()
    assert not gate.is_open
    workers.are_there = True
    async with asyncio.timeout(60):
        await opening
    assert gate.is_open


async def test_who_has_just_worked_is_not_asked(workers: Workers) -> None:
    """In a stream of work the gate costs nothing."""
    gate = Gate(workers.ask)
    gate.note()
    await gate.open()

    assert workers.num_asked == 0


async def test_it_closes_when_nobody_has_been_seen_for_a_while(workers: Workers) -> None:
    """They may have gone."""
    gate = Gate(workers.ask, trust_s=0.01)
    gate.note()
    await asyncio.sleep(0.02)

    assert not gate.is_open
