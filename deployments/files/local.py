"""The file store in a folder, which several processes may share."""

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from deployments.files.base import NAME, StoredFile, expiry_of, is_served, new_name, reporting
from deployments.settings import FileSettings

TEMPORARY = re.compile(rf"\.{NAME.pattern}\.tmp")
TEMPORARY_S = 600.0  # no write takes this long, so its writer has died


class LocalFileStore:
    """A FileStore in the folder `settings.root`."""

    def __init__(self, settings: FileSettings) -> None:
        self._root = Path(settings.root)
        self._reporting = partial(reporting, str(self._root), (OSError,))
        self._expires_s = settings.expires_s

    def put(self, data: bytes, content_type: str, ttl_s: float | None = None) -> StoredFile:
        return self.keep(new_name(content_type, self._expires_s if ttl_s is None else ttl_s), data)

    def keep(self, name: str, data: bytes) -> StoredFile:
        return self.create(name, [data])

    def create(self, name: str, pieces: Iterable[bytes]) -> StoredFile:
        path = self.path(name)
        with self._reporting(expected=FileExistsError):
            self._make_folder(path.parent)
            write(path, pieces)
            return StoredFile(name, path.stat().st_size)

    def find(self, name: str) -> StoredFile | None:
        if not is_served(name):
            return None
        with self._reporting(), suppress(FileNotFoundError, NotADirectoryError):
            return StoredFile(name, self.path(name).stat().st_size)
        return None

    def read(self, file: StoredFile, start: int, size: int) -> bytes:
        with self._reporting(expected=FileNotFoundError), self.path(file.name).open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def remove(self, name: str) -> None:
        if NAME.fullmatch(name):
            self._remove(self.path(name))

    def prune(self) -> int:
        """See FileStore; also removes what writers that died have left behind."""
        now = time.time()
        paths = list(self._root.glob("[0-9a-f][0-9a-f]/*"))
        return sum(self._remove(path) for path in paths if is_stale(path, now))

    def path(self, name: str) -> Path:
        """Where the file called `name` is kept: 256 folders keep each one small."""
        return self._root / name[:2] / name

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self._root)

    def _remove(self, path: Path) -> bool:
        """Remove `path`; False when another process was first."""
        with self._reporting(), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            return True
        return False


def is_stale(path: Path, now: float) -> bool:
    """Whether `path` is ours and expired; in a folder named by mistake nothing is removed."""
    if NAME.fullmatch(path.name):
        return expiry_of(path.name) <= now
    if TEMPORARY.fullmatch(path.name):
        return now - modified_at(path, now) >= TEMPORARY_S
    return False


def write(path: Path, pieces: Iterable[bytes]) -> None:
    """Write `pieces` so that `path` holds all of them or does not exist, also after a crash.

    Raises:
        FileExistsError: `path` exists, or another process is about to make it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.touch(exist_ok=False)  # while it exists, no other process makes `path`
    try:
        refuse_existing(path)
        with temporary.open("wb") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileExistsError(path)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def modified_at(path: Path, default: float) -> float:
    """When `path` was last written, or `default` when it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return default
