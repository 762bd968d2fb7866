"""Whether the file store takes files: at the start, and from time to time afterwards."""

import asyncio
import math
import time

from deployments.errors import SetupError, StoreUnavailable
from deployments.files.base import OPAQUE, FileStore, reason
from deployments.files.open import open_file_store
from deployments.settings import FileSettings

PROBE, PROBE_S = b"florence", 60.0
EVERY_S = 10.0


def open_writable_store(settings: FileSettings) -> FileStore:
    """The store at `settings.root`, which takes files.

    Raises:
        SetupError: it cannot be used, or a file cannot be written, read and removed there.
    """
    store = open_file_store(settings)
    try:
        probe(store)
    except (StoreUnavailable, FileNotFoundError) as error:
        cause = error.__cause__
        why = reason(cause if isinstance(cause, Exception) else error)
        raise SetupError(
            f"setting files.root: {settings.root} cannot be written: {why}; "
            "make it writable, or name another folder or bucket"
        ) from error
    return store


def probe(store: FileStore) -> bytes:
    """Write a file, read it, and remove it; returns what was read, which is `PROBE`.

    Raises:
        StoreUnavailable, FileNotFoundError: one of these fails.
    """
    file = store.put(PROBE, OPAQUE, PROBE_S)
    content = store.read(file, 0, file.size)
    store.remove(file.name)
    return content


class WriteProbe:
    """Asks a store at most every ten seconds."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._asked_at = -math.inf
        self._is_writable = False

    async def is_writable(self) -> bool:
        """Whether it took a file when it was last asked."""
        if time.monotonic() - self._asked_at >= EVERY_S:
            self._asked_at = time.monotonic()
            self._is_writable = await asyncio.to_thread(self._ask)
        return self._is_writable

    def _ask(self) -> bool:
        try:
            return probe(self._store) == PROBE
        except (StoreUnavailable, FileNotFoundError):
            return False
