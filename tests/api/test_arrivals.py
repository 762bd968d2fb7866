"""Bodies of uploads: bounded in size, in number and in time."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Request as HttpRequest

from deployments.api import arrivals
from deployments.api.arrivals import Arrivals
from deployments.errors import ClientDisconnected, PayloadTooLarge, RequestTimeout
from deployments.files.local import LocalFileStore
from deployments.settings import FileSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The loop that Serve runs on."""
    return "asyncio"


def arriving(root: Path, upload_expires_s: float = 60.0) -> Arrivals:
    """What takes bodies in."""
    settings = FileSettings(root=str(root), upload_expires_s=upload_expires_s)
    return Arrivals(LocalFileStore(settings), settings)


class Body:
    """A request whose body comes piece by piece, and counts how much of it was taken."""

    def __init__(self, pieces: Iterator[bytes], gate: asyncio.Event | None = None) -> None:
        self.taken = 0
        self._pieces = pieces
        self._gate = gate
        self.request = HttpRequest({"type": "http", "headers": []}, self.receive)

    async def receive(self) -> dict[str, object]:
        """The next piece, as a server gives it."""
        if self._gate:
            await self._gate.wait()
        piece = next(self._pieces, None)
        if piece is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        self.taken += len(piece)
        return {"type": "http.request", "body": piece, "more_body": True}


async def read(taking: Arrivals, body: Body, max_bytes: int) -> bytes:
    """The whole body."""
    async with taking.body(body.request, max_bytes) as data:
        return data


async def test_a_body_is_read_whole(tmp_path: Path) -> None:
    """All pieces, up to the very last byte that is allowed."""
    assert await read(arriving(tmp_path), Body(iter([b"ab", b"", b"cd"])), 4) == b"abcd"


async def test_reading_stops_at_the_first_piece_too_many(tmp_path: Path) -> None:
    """What is too large is not read on."""
    body = Body(iter([b"x"] * 100))

    with pytest.raises(PayloadTooLarge):
        await read(arriving(tmp_path), body, 4)
    assert body.taken == 5


async def test_a_slow_body_is_given_up(tmp_path: Path) -> None:
    """An upload has as much time as its URL."""
    with pytest.raises(RequestTimeout):
        await read(arriving(tmp_path, 0.01), Body(iter([]), asyncio.Event()), 4)


async def test_a_caller_who_hangs_up_leaves_no_file(tmp_path: Path) -> None:
    """Half a body is none."""

    async def hang_up() -> dict[str, object]:
        return {"type": "http.disconnect"}

    body = Body(iter([]))
    body.request = HttpRequest({"type": "http", "headers": []}, hang_up)
    with pytest.raises(ClientDisconnected):
        await read(arriving(tmp_path), body, 4)


async def test_only_so_many_bodies_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is not touched before one of them is done."""
    monkeypatch.setattr(arrivals, "MAX_ARRIVING", 1)
    taking, gate = arriving(tmp_path), asyncio.Event()
    first, second = Body(iter([b"1"]), gate), Body(iter([b"2"]))
    tasks = [asyncio.create_task(read(taking, body, 4)) for body in (first, second)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert second.taken == 0

    gate.set()
    assert await asyncio.gather(*tasks) == [b"1", b"2"]
