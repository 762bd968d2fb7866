"""Calls of a store that is unavailable for a moment."""

import asyncio

import pytest

from deployments.errors import StoreUnavailable
from deployments.jobs.store_retry import retried

pytestmark = pytest.mark.anyio


class FlakyStore:
    """Unavailable until `is_up`."""

    def __init__(self, retry_s: float) -> None:
        self.retry_s = retry_s
        self.is_up = False
        self.num_calls = 0

    @retried
    async def double(self, number: int) -> int:
        self.num_calls += 1
        if not self.is_up:
            raise StoreUnavailable
        return 2 * number


async def test_a_call_waits_until_the_store_is_available() -> None:
    """Its caller does not notice a restart."""
    store = FlakyStore(retry_s=60)
    calling = asyncio.create_task(store.double(4))
    while store.num_calls < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert not calling.done()
    store.is_up = True

    assert await calling == 8


async def test_retries_have_an_end() -> None:
    """After it the caller gets the error, and not before a second try."""
    store = FlakyStore(retry_s=0.1)
    with pytest.raises(StoreUnavailable):
        await store.double(4)

    assert store.num_calls > 1


async def test_without_time_there_is_one_try() -> None:
    """Zero seconds are no retry."""
    store = FlakyStore(retry_s=0)
    with pytest.raises(StoreUnavailable):
        await store.double(4)

    assert store.num_calls == 1


async def test_other_errors_are_not_retried() -> None:
    """They would come again."""
    store = FlakyStore(retry_s=60)
    store.is_up = True
    with pytest.raises(TypeError):
        await store.double(None)  # type: ignore[arg-type]

    assert store.num_calls == 1
