"""A store that is opened at its first use."""

import asyncio

import pytest

from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.late import opened_late
from deployments.jobs.memory import MemoryStore
from deployments.jobs.store import Store
from deployments.settings import QueueSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_it_is_opened_once() -> None:
    """However many ask at the same time."""
    opened: list[Store] = []

    async def open_() -> Store:
        await asyncio.sleep(0)
        opened.append(MemoryStore(QueueSettings()))
        return opened[-1]

    store = opened_late(open_)
    await asyncio.gather(*(store.now() for _ in range(5)))

    assert len(opened) == 1


async def test_a_failed_opening_is_tried_again() -> None:
    """A database that starts later than we do is found then."""
    attempts = 0

    async def open_() -> Store:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise StoreUnavailable
        return MemoryStore(QueueSettings())

    store = opened_late(open_)
    with pytest.raises(StoreUnavailable):
        await store.now()

    assert await store.now() > 0


async def test_a_store_that_cannot_be_opened_is_unavailable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients hear of a 503, the operator what to change."""

    async def open_() -> Store:
        raise SetupError("store postgresql://nowhere: cannot be reached")

    with pytest.raises(StoreUnavailable):
        await opened_late(open_).now()

    assert "cannot be reached" in caplog.text


def test_it_has_only_what_a_store_has() -> None:
    """A misspelt method is an error at once, not at the first use."""

    async def open_() -> Store:
        return MemoryStore(QueueSettings())

    with pytest.raises(AttributeError):
        opened_late(open_).sumbit  # type: ignore[attr-defined]  # noqa: B018
