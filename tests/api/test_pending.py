"""Any replica knows what any other has promised, for as long as it can matter."""

import asyncio
import time

import pytest

from deployments.api import pending as promises
from deployments.api.pending import MARGIN_S, Promises
from deployments.files.base import new_name
from deployments.files.pending import pending_name
from deployments.jobs.memory import MemoryStore
from deployments.settings import QueueSettings

from .service import AwayStore

pytestmark = pytest.mark.anyio

LONGEST_RUN_S = 120.0


@pytest.fixture
def anyio_backend() -> str:
    """The loop that Serve runs on."""
    return "asyncio"


@pytest.fixture
def store() -> MemoryStore:
    """Where the secret is."""
    return MemoryStore(QueueSettings())


async def named(store: MemoryStore) -> str:
    """A picture that one replica has promised."""
    return pending_name(await Promises(store, LONGEST_RUN_S).key(), "image/jpeg", 3600.0)


async def test_a_promise_is_known_to_any_replica(store: MemoryStore) -> None:
    """They share a secret; what was made up is known to none."""
    other = Promises(store, LONGEST_RUN_S)

    assert await other.hold(await named(store))
    assert not await other.hold(new_name("image/jpeg", 3600.0))


async def test_another_service_has_another_secret(store: MemoryStore) -> None:
    """Its promises are not ours."""
    assert not await Promises(store, LONGEST_RUN_S).hold(await named(MemoryStore(QueueSettings())))


@pytest.mark.parametrize("phase", [0.0, 0.5, 0.999])
async def test_a_key_outlives_the_run_that_got_it(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, phase: float
) -> None:
    """Whenever in its period it was made, it holds until the run must be over, but not for long."""
    period_s = LONGEST_RUN_S + MARGIN_S
    began = (time.time() // period_s + phase) * period_s
    monkeypatch.setattr(time, "time", lambda: began)
    name = await named(store)
    for later_s, is_held in ((0.0, True), (period_s, True), (2 * period_s, False)):
        monkeypatch.setattr(time, "time", lambda at=began + later_s: at)
        assert await Promises(store, LONGEST_RUN_S).hold(name) == is_held


async def test_without_the_store_nothing_is_promised() -> None:
    """And nothing that was promised is known; both work again with it."""
    store = AwayStore()
    found = Promises(store, LONGEST_RUN_S)
    assert await found.key() == ""
    assert not await found.hold(new_name("image/jpeg", 60.0))

    store.is_away = False
    assert await found.hold(pending_name(await found.key(), "image/jpeg", 60.0))


async def test_a_store_that_hangs_holds_no_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run waits for the secret a moment only."""

    class Hanging(MemoryStore):
        async def secret(self, name: str, fresh: bytes) -> bytes:
            await asyncio.Event().wait()
            return fresh

    monkeypatch.setattr(promises, "STORE_TIMEOUT_S", 0.05)
    async with asyncio.timeout(5.0):
        assert await Promises(Hanging(QueueSettings()), LONGEST_RUN_S).key() == ""
