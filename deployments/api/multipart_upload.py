"""Uploads in parts, which become one file when the last part is there.

A part waits in the file store under a name that follows from the upload, its number and its
content: any replica finds it, a repeated part is the same file, and no other caller can name it.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence

from pydantic import BaseModel, Field

from deployments.api.auth import Permission, UrlSigner
from deployments.api.body import too_large
from deployments.errors import BadRequest, NotFound
from deployments.files.base import OPAQUE, FileStore, StoredFile, name_for
from deployments.images.decode import SNIFFED_BYTES
from deployments.settings import MIB

PART_BYTES = 10 * MIB  # what fal's clients cut files into
MAX_PARTS = 10_000
CHUNK_BYTES = MIB
GRACE_S = 600  # parts outlive their permission, so that none goes while they are joined


class UploadedPart(BaseModel):
    """A part as its uploader knows it."""

    number: int = Field(alias="partNumber", ge=1, le=MAX_PARTS)
    etag: str = Field(pattern=r'^(W/)?"?[0-9a-f]{64}"?$')

    @property
    def digest(self) -> str:
        """The SHA-256 of its bytes, in hex."""
        return self.etag.removeprefix("W/").strip('"')


class Completion(BaseModel):
    """All parts of a file, in any order."""

    parts: list[UploadedPart] = Field(min_length=1, max_length=MAX_PARTS)


class PartStore:
    def __init__(self, files: FileStore, signer: UrlSigner) -> None:
        self._files = files
        self._signer = signer

    async def put(self, permission: Permission, number: int, data: bytes) -> str:
        """Keep part `number`; the same part again changes nothing. Its SHA-256, in hex."""
        digest = await asyncio.to_thread(sha256, data)
        name = await self._name(permission, number, digest)
        await asyncio.to_thread(create_once, self._files, name, [data])
        return digest

    async def join(
        self,
        permission: Permission,
        parts: Sequence[UploadedPart],
        check: Callable[[bytes], None],
    ) -> None:
        """Make one file of all `parts`, whose first bytes pass `check`; again changes nothing.

        Raises:
            BadRequest: a part is missing, or named twice.
        """
        names = [await self._name(permission, part.number, part.digest) for part in in_order(parts)]
        await asyncio.to_thread(join, self._files, permission.subject, names, check)

    async def _name(self, permission: Permission, number: int, digest: str) -> str:
        digits = await self._signer.digest(f"part {permission.subject} {number} {digest}")
        return name_for(digits[:32], permission.expires + GRACE_S, OPAQUE)


def number_in(text: str) -> int:
    """The number of a part, from 1.

    Raises:
        NotFound: `text` is no such number.
    """
    if text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= MAX_PARTS:
        return int(text)
    raise NotFound


def max_part_bytes(number: int, max_bytes: int) -> int:
    """How large part `number` of a file of at most `max_bytes` may be.

    Raises:
        PayloadTooLarge: the parts before it fill the file.
    """
    left = max_bytes - (number - 1) * PART_BYTES
    if left <= 0:
        raise too_large(max_bytes)
    return min(left, PART_BYTES)


def in_order(parts: Sequence[UploadedPart]) -> list[UploadedPart]:
    """`parts` by their numbers.

    Raises:
        BadRequest: one is there twice.
    """
    ordered = sorted(parts, key=lambda part: part.number)
    if len({part.number for part in ordered}) < len(ordered):
        raise BadRequest("Each part must be named once.")
    return ordered


def join(
    store: FileStore, name: str, part_names: Sequence[str], check: Callable[[bytes], None]
) -> None:
    """Make the file `name` of its parts, and remove those."""
    if store.find(name) is not None:
        return
    parts = [found(store, part, number) for number, part in enumerate(part_names, start=1)]
    check(store.read(parts[0], 0, SNIFFED_BYTES))
    try:
        create_once(store, name, chunks(store, parts))
    except BadRequest:
        if store.find(name) is None:  # else another request has joined the same parts
            raise
    for part in part_names:
        store.remove(part)


def create_once(store: FileStore, name: str, data: Sequence[bytes] | Iterator[bytes]) -> None:
    """Store a file; one of the same name has the same bytes."""
    try:
        store.create(name, data)
    except FileExistsError:
        return


def chunks(store: FileStore, parts: Sequence[StoredFile]) -> Iterator[bytes]:
    """The bytes of `parts`, a chunk at a time.

    Raises:
        BadRequest: a part is not there any more.
    """
    for part in parts:
        for start in range(0, part.size, CHUNK_BYTES):
            try:
                yield store.read(part, start, CHUNK_BYTES)
            except FileNotFoundError:
                raise BadRequest("A part is not there any more.") from None


def found(store: FileStore, name: str, number: int) -> StoredFile:
    """The part called `name`.

    Raises:
        BadRequest: it is not there.
    """
    part = store.find(name)
    if part is None:
        raise BadRequest(f"Part {number} was not uploaded, or its etag is another's.")
    return part


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
