"""Our own file URLs: their images are read from the file store, without a call to ourselves."""

import asyncio
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from deployments.errors import FileDownloadError, FileTooLarge
from deployments.files.base import NAME, FileStore
from deployments.files.pending_pictures import wait_for_file

FILES = "/cdn/files/"
PORTS = {"http": 80, "https": 443}


def own_name(url: str, base_urls: Iterable[str]) -> str | None:
    """The name of our file that `url` points to, when it stands under one of `base_urls`."""
    asked = split(url)
    if asked is None:
        return None
    head, separator, name = asked.path.rpartition(FILES)
    if not separator or not NAME.fullmatch(name):
        return None
    bases = (split(base) for base in base_urls)
    is_ours = any(
        base and (place(base), base.path.rstrip("/")) == (place(asked), head) for base in bases
    )
    return name if is_ours else None


async def read_own(store: FileStore, name: str, max_bytes: int) -> bytes:
    """The bytes of our file called `name`, at most `max_bytes`; a pending file is waited for.

    Every caller can name a file that never comes, but that takes no longer than a slow host.

    Raises:
        FileDownloadError: there is none, or it has expired.
        FileTooLarge: it has more; ctx holds `max_size`.
        StoreUnavailable: the store does not answer.
    """
    file = await wait_for_file(store, name)
    if file is None:
        raise gone()
    if file.size > max_bytes:
        raise FileTooLarge.of(max_bytes)
    try:
        return await asyncio.to_thread(store.read, file, 0, file.size)
    except FileNotFoundError:
        raise gone() from None


def split(url: str) -> SplitResult | None:
    """The parts of an http or https URL; None for anything else."""
    try:
        parts = urlsplit(url)
        return parts if parts.scheme in PORTS and place(parts)[0] else None
    except ValueError:
        return None


def place(parts: SplitResult) -> tuple[str | None, int]:
    """The host and the port."""
    return parts.hostname, parts.port or PORTS[parts.scheme]


def gone() -> FileDownloadError:
    return FileDownloadError(
        "Failed to download the file: there is no file of this name, or it has expired."
    )
