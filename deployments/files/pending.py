"""Names of pictures that are still being drawn, and how to wait for one of them.

Half of such a name's random digits follow from the rest of it and a key.
Whoever has the key tells a name that was promised from one that was made up, on any machine and
without asking anybody; to all others it is as hard to guess as every name of the store.
"""

import asyncio
import hashlib
import hmac
from contextlib import suppress

from deployments.files.base import FileStore, StoredFile, is_served, new_name

WAIT_S = 5.0
PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25
SLOWER = 1.5  # each look that finds nothing makes the pause so much longer


def promised_name(key: str, content_type: str, ttl_s: float) -> str:
    """A name for a file that is served for `ttl_s` seconds from now, made with `key`."""
    name = new_name(content_type, ttl_s)
    return name[:16] + mark(key, name) + name[32:]


def is_promised(name: str, key: str) -> bool:
    """Whether `name` was made with `key`."""
    return hmac.compare_digest(name[16:32].encode(), mark(key, name).encode())


def mark(key: str, name: str) -> str:
    """The 16 hex digits that belong in the middle of `name`."""
    words = name[:16] + name[32:]
    return hmac.new(key.encode(), words.encode(), hashlib.sha256).hexdigest()[:16]


async def find_soon(store: FileStore, name: str) -> StoredFile | None:
    """The file called `name`, which may be on its way; None when it does not come in time.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    pause_s = PAUSE_S
    with suppress(TimeoutError):
        async with asyncio.timeout(WAIT_S):
            while is_served(name):
                file = await asyncio.to_thread(store.find, name)
                if file is not None:
                    return file
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * SLOWER, LONGEST_PAUSE_S)
    return None
