"""Pending names differ from invented ones, and are waited for."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import StoreUnavailable
from deployments.files import pending_pictures as pending
from deployments.files.base import NAME, StoredFile, expiry_of, new_name
from deployments.files.local import LocalFileStore
from deployments.files.pending_pictures import is_pending, pending_name, wait_for_file

pytestmark = pytest.mark.anyio


def test_a_pending_name_is_a_name_like_any_other() -> None:
    """It has its type and its time, and no two are alike."""
    names = {pending_name("key", "image/jpeg", 60.0) for _ in range(20)}

    assert all(NAME.fullmatch(name) and name.endswith(".jpg") for name in names)
    assert all(59 < expiry_of(name) - time.time() <= 61 for name in names)
    assert len({name[:16] for name in names}) == len({name[16:32] for name in names}) == 20


def test_a_name_is_known_by_its_key() -> None:
    """With another key it is one of many."""
    name = pending_name("key", "image/jpeg", 60.0)

    assert is_pending(name, "key")
    assert not is_pending(name, "other key")
    assert not is_pending(new_name("image/jpeg", 60.0), "key")


@given(place=st.integers(0, 42), digit=st.sampled_from("0123456789abcdef"))
def test_an_altered_name_is_not_pending(place: int, digit: str) -> None:
    """No digit of it can be another: neither the random ones nor the time."""
    name = pending_name("key", "image/jpeg", 60.0)
    altered = name[:place] + digit + name[place + 1 :]

    assert is_pending(altered, "key") == (altered == name)


async def test_a_file_that_is_there_is_found_at_once(store: LocalFileStore) -> None:
    """Without a wait."""
    file = store.put(b"x", "image/png")
    async with asyncio.timeout(1.0):
        assert await wait_for_file(store, file.name) == file


async def test_a_file_that_comes_is_waited_for(store: LocalFileStore) -> None:
    """It is found soon after another has stored it."""
    name = new_name("image/jpeg", 60.0)
    waiting = asyncio.create_task(wait_for_file(store, name))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    file = store.keep(name, b"x")

    assert await waiting == file


async def test_a_file_that_never_comes_is_given_up(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded, and asks the store less and less often."""
    calls: list[float] = []

    def find(name: str) -> None:
        calls.append(time.monotonic())

    monkeypatch.setattr(pending, "WAIT_S", 0.5)
    monkeypatch.setattr(store, "find", find)
    began = time.monotonic()

    assert await wait_for_file(store, new_name("image/jpeg", 60.0)) is None
    assert 0.5 <= time.monotonic() - began < 3.0
    assert 2 <= len(calls) <= 9


@pytest.mark.parametrize("is_ours", [False, True])
async def test_what_can_not_come_is_not_waited_for(store: LocalFileStore, is_ours: bool) -> None:
    """A file whose time is over, or that has no name of ours."""
    name = new_name("image/jpeg", -1.0) if is_ours else "nope"
    async with asyncio.timeout(1.0):
        assert await wait_for_file(store, name) is None


async def test_a_store_that_is_away_is_not_waited_for(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is raised at once."""

    def fail(name: str) -> StoredFile:
        raise StoreUnavailable

    monkeypatch.setattr(store, "find", fail)
    with pytest.raises(StoreUnavailable):
        await wait_for_file(store, new_name("image/jpeg", 60.0))
