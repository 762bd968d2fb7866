"""Where pictures are kept: under unguessable names, for a limited time.

A store knows bytes and content types; it knows nothing of HTTP.
Its methods block, so a server calls them in threads.
"""

import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deployments.errors import SetupError
from deployments.settings import FileSettings

SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "application/json": ".json",
    "application/octet-stream": ".bin",
}
OPAQUE = "application/octet-stream"
CONTENT_TYPES = {suffix: content_type for content_type, suffix in SUFFIXES.items()}

NAME = re.compile(rf"[0-9a-f]{{32}}({'|'.join(map(re.escape, CONTENT_TYPES))})")
TEMPORARY = re.compile(rf"\.{NAME.pattern}\.tmp")
TEMPORARY_S = 600.0  # no write takes this long, so its writer has died


@dataclass(frozen=True)
class StoredFile:
    """A file of a store: what it is, where the store keeps it, and until when."""

    name: str
    path: Path
    content_type: str
    size: int
    expires_at: float


class FileStore(Protocol):
    """Keeps files by name until they expire."""

    def put(self, data: bytes, content_type: str) -> StoredFile:
        """Keep `data` under a new name that cannot be guessed; durable when this returns."""

    def find(self, name: str) -> StoredFile | None:
        """The file called `name`, or None when there is none, or none any more."""

    def read(self, file: StoredFile, start: int, size: int) -> bytes:
        """Up to `size` bytes of `file` from `start`.

        Raises:
            FileNotFoundError: the file was removed since it was found.
        """

    def prune(self) -> int:
        """Remove what has expired, and say how many files that were."""


class LocalFileStore:
    """A FileStore in a folder, which several processes may share."""

    def __init__(self, settings: FileSettings) -> None:
        self._root = Path(settings.root)
        self._expires_s = settings.expires_s

    def put(self, data: bytes, content_type: str) -> StoredFile:
        """See FileStore; a content type that is not known is kept as opaque bytes.

        Raises:
            SetupError: the folder cannot be written.
        """
        name = secrets.token_hex(16) + SUFFIXES.get(content_type, SUFFIXES[OPAQUE])
        path = self._path(name)
        try:
            self._make_folder(path.parent)
            write(path, data)
            return self._describe(path)
        except OSError as error:
            raise SetupError(
                f"setting files.root: {self._root} cannot be written: {error.strerror}"
            ) from error

    def find(self, name: str) -> StoredFile | None:
        """See FileStore."""
        if not NAME.fullmatch(name):
            return None
        try:
            file = self._describe(self._path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return file if time.time() < file.expires_at else None

    def read(self, file: StoredFile, start: int, size: int) -> bytes:
        """See FileStore."""
        with file.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def prune(self) -> int:
        """See FileStore; also removes what a writer that died has left behind."""
        now = time.time()
        paths = list(self._root.glob("[0-9a-f][0-9a-f]/*"))
        return sum(remove(path) for path in paths if self._is_stale(path, now))

    def _path(self, name: str) -> Path:
        return self._root / name[:2] / name  # 256 folders keep each one small

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self._root)

    def _describe(self, path: Path) -> StoredFile:
        status = path.stat()
        expires_at = status.st_mtime + self._expires_s
        return StoredFile(path.name, path, CONTENT_TYPES[path.suffix], status.st_size, expires_at)

    def _is_stale(self, path: Path, now: float) -> bool:
        # Only our own names are ever removed: the folder may hold something else by mistake.
        if NAME.fullmatch(path.name):
            return now - modified_at(path, now) >= self._expires_s
        if TEMPORARY.fullmatch(path.name):
            return now - modified_at(path, now) >= TEMPORARY_S
        return False


def write(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds all of it or does not exist, whatever crashes when."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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


def remove(path: Path) -> bool:
    """Remove `path`; False when another process was first."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
