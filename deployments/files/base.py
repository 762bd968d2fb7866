"""The file store: it keeps uploads and pictures under unguessable names, for a limited time.

A name holds the time until which its file is served, and its type, so every process and every kind
of store agrees on both without a call.
A store knows bytes and names, and nothing of HTTP. Its methods block, so a server calls them in
threads.
"""

import math
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from deployments.errors import StoreUnavailable
from deployments.telemetry.log import logger

OPAQUE = "application/octet-stream"
SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
    "image/avif": ".avif",
    OPAQUE: ".bin",
}
CONTENT_TYPES = {suffix: content_type for content_type, suffix in SUFFIXES.items()}

# 128 random bits, and when the file expires: seconds since the epoch in 40 bits.
NAME = re.compile(rf"[0-9a-f]{{32}}-([0-9a-f]{{10}})({'|'.join(map(re.escape, CONTENT_TYPES))})")
NEVER = 0xFF_FFFF_FFFF


@dataclass(frozen=True)
class StoredFile:
    """A file of a store: its name and its size in bytes."""

    name: str
    size: int

    @property
    def content_type(self) -> str:
        return content_type_of(self.name)

    @property
    def expires_at(self) -> float:
        """When it is no longer served, in seconds since the epoch; infinite for never."""
        return expiry_of(self.name)


class FileStore(Protocol):
    """Keeps files by name until they expire.

    Every method may raise StoreUnavailable; the reason is in the log.
    """

    def put(self, data: bytes, content_type: str, ttl_s: float | None = None) -> StoredFile:
        """Keep `data` under a new name; durable when this returns.

        `ttl_s` is how long it is kept, None for as long as the settings say.
        A content type that is not known is kept as opaque bytes.
        """

    def keep(self, name: str, data: bytes) -> StoredFile:
        """Keep `data` under `name`, which no other file has; as durable as `put`."""

    def create(self, name: str, pieces: Iterable[bytes]) -> StoredFile:
        """Keep all of `pieces`, joined, under a name that was given before.

        One of several concurrent calls with the same name wins.

        Raises:
            FileExistsError: the name has its file.
        """

    def find(self, name: str) -> StoredFile | None:
        """The file called `name`; None when there is none, or it has expired."""

    def read(self, file: StoredFile, start: int, size: int) -> bytes:
        """Up to `size` bytes of `file` from `start`.

        Raises:
            FileNotFoundError: the file was removed since it was found.
        """

    def remove(self, name: str) -> None:
        """Remove the file called `name`, if there is one."""

    def prune(self) -> int:
        """Remove expired files; returns their number."""


def new_name(content_type: str, ttl_s: float) -> str:
    """An unguessable name for a file that is served for `ttl_s` seconds from now."""
    expires_at = time.time() + ttl_s
    expires = NEVER if expires_at >= NEVER else math.ceil(expires_at)
    return name_for(secrets.token_hex(16), expires, content_type)


def name_for(digits: str, expires: int, content_type: str) -> str:
    """The name of a file with these 32 hex `digits` that expires at `expires`."""
    return f"{digits}-{expires:010x}{SUFFIXES.get(content_type, SUFFIXES[OPAQUE])}"


def expiry_of(name: str) -> float:
    """When the file called `name` expires, in seconds since the epoch; -inf for no name of ours."""
    match = NAME.fullmatch(name)
    if match is None:
        return -math.inf
    expires = int(match[1], 16)
    return math.inf if expires == NEVER else float(expires)


def content_type_of(name: str) -> str:
    return CONTENT_TYPES["." + name.rpartition(".")[2]]


def is_served(name: str) -> bool:
    """Whether `name` is that of a file which has not expired."""
    return time.time() < expiry_of(name)


@contextmanager
def reporting(
    root: str, failures: tuple[type[Exception], ...], expected: type[Exception] | None = None
) -> Iterator[None]:
    """Turn `failures` of the store at `root` into StoreUnavailable, and log them.

    An `expected` error is about a single file, and is raised as it is.
    """
    try:
        yield
    except failures as error:
        if expected and isinstance(error, expected):
            raise
        logger.error("setting files.root: %s cannot be used: %s", root, reason(error))
        message = "Files cannot be kept or read at the moment; try again."
        raise StoreUnavailable(message) from error


def reason(error: Exception) -> str:
    """The first line of `error`: some libraries append a page of details."""
    return (str(error) or type(error).__name__).partition("\n")[0]
