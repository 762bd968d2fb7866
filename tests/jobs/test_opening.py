"""PostgreSQL is connected at the first use, because it may start later than its users."""

import asyncio
from typing import Any

import pytest

from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.postgres import PostgresStore, database
from deployments.settings import QueueSettings

pytestmark = pytest.mark.anyio

URL = "postgresql://nowhere/florence"


class Server:
    """Lets stores connect once it `is_up`; its connections say that they are lost."""

    def __init__(self, is_up: bool) -> None:
        self.is_up = is_up
        self.num_tries = 0

    async def connect(self, url: str, *_: Any) -> tuple[Any, int, str]:
        """A pool, without a schema."""
        self.num_tries += 1
        await asyncio.sleep(0)
        if not self.is_up:
            raise SetupError(f"store {url}: cannot be used")
        return self, 0, ""

    def acquire(self, timeout: float) -> Any:
        """No connection."""
        raise ConnectionRefusedError


def store_of(server: Server, monkeypatch: pytest.MonkeyPatch, retry_s: float) -> PostgresStore:
    """A store on this server."""
    monkeypatch.setattr(database, "connect", server.connect)
    return PostgresStore(URL, QueueSettings(), 1, retry_s)


async def test_it_connects_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls are made at the same time."""
    server = Server(is_up=True)
    store = store_of(server, monkeypatch, retry_s=0)
    await asyncio.gather(*(store.now() for _ in range(5)), return_exceptions=True)

    assert server.num_tries == 1


async def test_it_connects_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that starts later is found then."""
    server = Server(is_up=False)
    store = store_of(server, monkeypatch, retry_s=0)
    for is_up, num_tries in ((False, 1), (True, 2), (True, 2)):
        server.is_up = is_up
        with pytest.raises(StoreUnavailable):
            await store.now()
        assert server.num_tries == num_tries


async def test_a_database_that_cannot_be_opened_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients get a 503, and the operator's log says what to change."""
    store = store_of(Server(is_up=False), monkeypatch, retry_s=0)
    with pytest.raises(StoreUnavailable):
        await store.now()

    assert "cannot be used" in caplog.text
