"""The file store in an object store: S3 and its kin, Google's or Azure's.

Credentials and the endpoint come from the environment, under each cloud's own names
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...).
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from deployments.errors import SetupError
from deployments.files.base import (
    NAME,
    StoredFile,
    content_type_of,
    expiry_of,
    is_served,
    new_name,
    reason,
    reporting,
)
from deployments.settings import FileSettings

TIMEOUT, CONNECT_TIMEOUT = timedelta(seconds=20), timedelta(seconds=5)
MAX_RETRIES, RETRY_TIMEOUT = 2, timedelta(seconds=10)
FAILURES = (BaseError, OSError, ValueError)  # a name that is not found is an OSError
REMEDY = "create the bucket, or check the URL, and the credentials and endpoint in the environment"


class ObjectFileStore:
    """A FileStore under the bucket and prefix in `settings.root`.

    A key begins with the time at which its file expires, so a listing has expired files first, and
    pruning reads no further.
    """

    def __init__(self, settings: FileSettings) -> None:
        """Connect.

        Raises:
            SetupError: the bucket cannot be listed.
        """
        self._reporting = partial(reporting, settings.root, FAILURES)
        self._expires_s = settings.expires_s
        try:
            self._store = from_url(
                settings.root,
                client_options={
                    "timeout": TIMEOUT,
                    "connect_timeout": CONNECT_TIMEOUT,
                    "allow_http": True,  # an endpoint is plain http only where it is written so
                },
                retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIMEOUT},
            )
            next(obstore.list(self._store, chunk_size=1), None)
        except FAILURES as error:
            why = f"setting files.root: {settings.root} cannot be used: {reason(error)}"
            raise SetupError(f"{why}; {REMEDY}") from error

    def put(self, data: bytes, content_type: str, ttl_s: float | None = None) -> StoredFile:
        return self.keep(new_name(content_type, self._expires_s if ttl_s is None else ttl_s), data)

    def keep(self, name: str, data: bytes) -> StoredFile:
        return self._write(name, data, "overwrite")  # a retry may find what it has written

    def create(self, name: str, pieces: Iterable[bytes]) -> StoredFile:
        """See FileStore; joins in memory, because only a whole object can be put just once."""
        return self._write(name, b"".join(pieces), "create")

    def find(self, name: str) -> StoredFile | None:
        if not is_served(name):
            return None
        with self._reporting(), suppress(FileNotFoundError):
            return StoredFile(name, obstore.head(self._store, key(name))["size"])
        return None

    def read(self, file: StoredFile, start: int, size: int) -> bytes:
        end = min(start + size, file.size)
        if start >= end:
            return b""
        with self._reporting(expected=FileNotFoundError):
            return bytes(obstore.get_range(self._store, key(file.name), start=start, end=end))

    def remove(self, name: str) -> None:
        if NAME.fullmatch(name):
            self._delete([key(name)])

    def prune(self) -> int:
        now, removed = time.time(), 0
        with self._reporting():
            for objects in obstore.list(self._store):
                ours = [found["path"] for found in objects if is_key(found["path"])]
                expired = [path for path in ours if expiry_of(name_in(path)) <= now]
                self._delete(expired)
                removed += len(expired)
                if len(expired) < len(ours):
                    break
        return removed

    def _write(self, name: str, data: bytes, mode: Literal["create", "overwrite"]) -> StoredFile:
        attributes = {"Content-Type": content_type_of(name)}
        with self._reporting(expected=FileExistsError):
            try:
                obstore.put(
                    self._store,
                    key(name),
                    data,
                    attributes=attributes,
                    mode=mode,
                    use_multipart=False,
                )
            except AlreadyExistsError:
                raise FileExistsError(name) from None
        return StoredFile(name, len(data))

    def _delete(self, keys: Sequence[str]) -> None:
        if keys:
            with self._reporting(), suppress(FileNotFoundError):
                obstore.delete(self._store, keys)


def key(name: str) -> str:
    return f"{name[33:43]}/{name}"


def name_in(path: str) -> str:
    return path.rpartition("/")[2]


def is_key(path: str) -> bool:
    """Whether a file of ours is kept at `path`: nothing else is ever removed."""
    return bool(NAME.fullmatch(name_in(path))) and key(name_in(path)) == path
