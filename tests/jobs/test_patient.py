"""A store that is waited for."""

import asyncio
from typing import Any

import pytest

from deployments.errors import StoreUnavailable
from deployments.jobs.late import opened_late
from deployments.jobs.memory import MemoryStore
from deployments.jobs.patient import patient
from deployments.jobs.store import Store
from deployments.settings import QueueSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Away:
    """A store that is away until `comes_back` is called."""

    def __init__(self) -> None:
        self._is_here = False
        self.num_asked = 0
        self.store = opened_late(self._open)

    def comes_back(self) -> None:
        """From now on it answers."""
        self._is_here = True

    async def _open(self) -> Store:
        self.num_asked += 1
        if not self._is_here:
            raise StoreUnavailable
        return MemoryStore(QueueSettings())


async def test_a_call_waits_until_the_store_is_back() -> None:
    """Its caller does not hear of a restart."""
    away = Away()
    calling = asyncio.create_task(patient(away.store, 60).now())
    while away.num_asked < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert not calling.done()
    away.comes_back()

    assert await calling > 0


async def test_patience_has_an_end() -> None:
    """After it the caller hears that the store is away, and not before it was asked again."""
    away = Away()
    with pytest.raises(StoreUnavailable):
        await patient(away.store, 0.2).now()

    assert away.num_asked > 1


async def test_without_patience_it_is_asked_once() -> None:
    """Zero seconds are none."""
    away = Away()
    with pytest.raises(StoreUnavailable):
        await patient(away.store, 0).now()

    assert away.num_asked == 1


async def test_what_adds_up_is_not_repeated() -> None:
    """A sum that was added and not answered would count twice."""
    away = Away()
    with pytest.raises(StoreUnavailable):
        await patient(away.store, 60).add_usage([])

    assert away.num_asked == 1


async def test_other_errors_are_not_waited_for() -> None:
    """They would come again."""

    class Broken:
        async def now(self) -> Any:
            raise ZeroDivisionError

    store: Any = Broken()
    with pytest.raises(ZeroDivisionError):
        await patient(store, 60).now()
