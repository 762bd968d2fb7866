"""Pictures are written in threads: before the answer, or while it travels; few are lost."""

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.errors import ImageLoadError, StoreUnavailable
from deployments.files import pending_pictures as pending
from deployments.files.base import StoredFile
from deployments.files.local import LocalFileStore
from deployments.files.pending_pictures import (
    PENDING_PER_THREAD,
    Picture,
    PictureWriter,
    is_pending,
    wait_for_file,
)
from deployments.settings import FileSettings
from deployments.telemetry.metrics import PrometheusRecorder

pytestmark = pytest.mark.anyio

KEY = "key"


class HeldStore(LocalFileStore):
    """A store that takes files only while it is open, and none while it is away."""

    def __init__(self, settings: FileSettings) -> None:
        super().__init__(settings)
        self.opened = threading.Event()
        self.opened.set()
        self.is_away = False

    def keep(self, name: str, data: bytes) -> StoredFile:
        """See FileStore."""
        assert self.opened.wait(30)
        if self.is_away:
            raise StoreUnavailable
        return super().keep(name, data)


class Studio:
    """A writer with one thread, and what a test reads."""

    def __init__(self, folder: Path) -> None:
        self.store = HeldStore(FileSettings(root=str(folder)))
        self.recorder = PrometheusRecorder()
        self.pictures = PictureWriter(1, self.store, self.recorder)

    def counted(self, name: str) -> float:
        """The value of one sample."""
        lines = self.recorder.exposition().decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    @property
    def num_lost(self) -> float:
        """Pictures that are lost."""
        return self.counted("florence_postprocess_pictures_lost_total")


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """A writer and its store."""
    return Studio(tmp_path)


def picture(draw: Callable[[], bytes] = lambda: b"drawn") -> Picture:
    """A picture for a request."""
    return Picture("the-request", draw, ttl_s=60.0)


async def test_a_written_picture_is_stored(studio: Studio) -> None:
    """It is stored and measured when the call returns."""
    stored = await studio.pictures.write(picture())

    assert stored
    assert studio.store.find(stored.name) == stored
    assert stored.content_type == "image/jpeg"
    assert studio.store.read(stored, 0, stored.size) == b"drawn"
    assert studio.counted("florence_postprocess_picture_seconds_count") == 1.0


async def test_a_pending_picture_comes_later(studio: Studio) -> None:
    """Its name is known before it is drawn, and leads to it soon."""
    studio.store.opened.clear()
    name = studio.pictures.write_later(picture(), KEY)
    assert name
    assert is_pending(name, KEY)
    assert studio.store.find(name) is None
    assert studio.pictures.is_busy
    studio.store.opened.set()

    file = await wait_for_file(studio.store, name)
    assert file
    assert file.size > 0


async def test_finish_waits_for_every_pending_picture(studio: Studio) -> None:
    """A replica that stops loses none of them."""
    studio.store.opened.clear()
    names = [studio.pictures.write_later(picture(), KEY) for _ in range(5)]
    finishing = asyncio.create_task(studio.pictures.finish())
    await asyncio.sleep(0.05)
    assert not finishing.done()
    studio.store.opened.set()
    await finishing

    assert all(name and studio.store.find(name) for name in names)
    assert not studio.pictures.is_busy


async def test_the_number_of_pending_pictures_is_bounded(studio: Studio) -> None:
    """Beyond the bound a picture must be written first, until some are stored."""
    studio.store.opened.clear()
    names = [studio.pictures.write_later(picture(), KEY) for _ in range(PENDING_PER_THREAD + 3)]
    assert [name is None for name in names] == [False] * PENDING_PER_THREAD + [True] * 3
    studio.store.opened.set()
    await studio.pictures.finish()

    assert studio.pictures.write_later(picture(), KEY)
    await studio.pictures.finish()


@pytest.mark.parametrize("is_pending", [False, True])
async def test_a_picture_is_lost_without_a_store(
    studio: Studio, caplog: pytest.LogCaptureFixture, is_pending: bool
) -> None:
    """It is counted, and logged with its request."""
    caplog.set_level(logging.WARNING, "ray.serve.florence")
    studio.store.is_away = True
    if is_pending:
        name = studio.pictures.write_later(picture(), KEY)
        await studio.pictures.finish()
        assert name
        assert studio.store.find(name) is None
    else:
        assert await studio.pictures.write(picture()) is None

    assert studio.num_lost == 1.0
    assert "request the-request: its picture is lost" in caplog.text


async def test_no_picture_is_pending_while_the_store_is_away(studio: Studio) -> None:
    """After a loss pictures are written before their answers, until one is stored again."""
    studio.store.is_away = True
    assert studio.pictures.write_later(picture(), KEY)
    await studio.pictures.finish()
    assert studio.pictures.write_later(picture(), KEY) is None

    studio.store.is_away = False
    assert await studio.pictures.write(picture())
    assert studio.pictures.write_later(picture(), KEY)
    await studio.pictures.finish()


async def test_a_broken_image_costs_its_own_picture_alone(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what was wrong with it; the next may be pending as before."""

    def fail() -> bytes:
        raise ImageLoadError("the PNG file is damaged")

    caplog.set_level(logging.WARNING, "ray.serve.florence")
    assert studio.pictures.write_later(picture(fail), KEY)
    await studio.pictures.finish()

    assert studio.num_lost == 1.0
    assert caplog.records[-1].levelno == logging.WARNING
    assert "the PNG file is damaged" in caplog.text
    assert studio.pictures.write_later(picture(), KEY)
    await studio.pictures.finish()


async def test_a_silent_store_costs_the_picture_and_not_the_answer(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call waits for it a moment, the next one not at all; then all is as before."""
    monkeypatch.setattr(pending, "SILENT_S", 0.05)
    monkeypatch.setattr(pending, "CHECK_EVERY_S", 0.01)
    studio.store.opened.clear()
    assert await studio.pictures.write(picture()) is None
    assert studio.pictures.write_later(picture(), KEY) is None
    assert await studio.pictures.write(picture()) is None

    studio.store.opened.set()
    async with asyncio.timeout(60):
        while await studio.pictures.write(picture()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert studio.pictures.write_later(picture(), KEY) is not None
    await studio.pictures.finish()
