"""The store that a command works on: found by its URL, opened for a moment, always closed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.open import MEMORY, SQLITE, open_store
from deployments.jobs.store import Store
from deployments.local.state import State
from deployments.settings import QueueSettings, StoreSettings, store_from_environment

T = TypeVar("T")


def store_url(store: str | None, state: Path) -> str:
    """The store's URL: the option, else FLORENCE_STORE, else the local service's own file.

    Raises:
        SetupError: the local service's folder cannot be made.
    """
    return store or store_from_environment() or State(state).store


def run_with_store(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    """What `work` makes of the store at `url`.

    Raises:
        SetupError: it cannot be opened, or is lost on the way; one line that names the remedy.
    """
    return asyncio.run(with_store(url, work))


async def with_store(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    """The same inside an event loop."""
    async with opened(url) as store:
        return await work(store)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """The store at `url`, open inside the block.

    Raises:
        SetupError: it cannot be opened, or does not answer.
    """
    try:
        store = await open_store(settings_of(url), QueueSettings())
        try:
            yield store
        finally:
            await store.close()
    except StoreUnavailable as error:
        raise SetupError(f"store {shown(url)} does not answer: {error}") from error


def settings_of(url: str) -> StoreSettings:
    """Settings for a store that several processes can open.

    Raises:
        SetupError: `url` names none.
    """
    if url == MEMORY:
        raise SetupError("store memory: lives in its service alone: give another with --store")
    try:
        return StoreSettings(url=url)
    except ValidationError:
        raise SetupError(
            f"{shown(url)} is no store: write --store postgresql://… or sqlite:///FILE"
        ) from None


def shown(url: str) -> str:
    """`url` without a password, for people to see."""
    if url.startswith(SQLITE):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "this URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
