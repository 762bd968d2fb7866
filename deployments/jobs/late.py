"""A store that is opened at its first use, for owners that cannot wait when they are made."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.store import Store
from deployments.telemetry.log import logger

Open = Callable[[], Awaitable[Store]]


class LateStore:
    """Every method of Store, of the store that `open_` gives.

    One that cannot be opened is unavailable, and tried again at the next call: a database may
    start later than those who use it.
    """

    def __init__(self, open_: Open) -> None:
        self._open = open_
        self._opening = asyncio.Lock()
        self._store: Store | None = None

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name not in Store.__dict__ and not hasattr(Store, name):
            raise AttributeError(name)

        async def call(*args: Any, **options: Any) -> Any:
            return await getattr(await self._opened(), name)(*args, **options)

        return call

    async def _opened(self) -> Store:
        if self._store is None:
            async with self._opening:
                self._store = self._store or await self._attempt()
        return self._store

    async def _attempt(self) -> Store:
        try:
            return await self._open()
        except SetupError as error:
            logger.error("%s", error)
            raise StoreUnavailable from error


def opened_late(open_: Open) -> Store:
    """A store to be opened by `open_` when it is first asked for something."""
    return cast(Store, LateStore(open_))
