"""Pictures are drawn in threads: some before the answer, some while it travels, few lost."""

import asyncio
import io
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.errors import StoreUnavailable
from deployments.files.base import StoredFile
from deployments.files.local import LocalFileStore
from deployments.files.pending import find_soon, is_promised
from deployments.florence.schemas import BoundingBox
from deployments.images import annotate as painter
from deployments.images.annotate import PROMISES_PER_THREAD, Drawing, Painter
from deployments.settings import FileSettings, Settings, parse
from deployments.telemetry.metrics import PrometheusRecorder

pytestmark = pytest.mark.anyio

KEY = "key"


@pytest.fixture
def anyio_backend() -> str:
    """The loop that Serve runs on."""
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One thread, and a folder of the test."""
    return parse({"postprocess": {"draw_threads": 1}, "files": {"root": str(tmp_path / "files")}})


class GatedStore(LocalFileStore):
    """A store that takes files only while its gate is open, and none while it is away."""

    def __init__(self, settings: FileSettings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()
        self.gate.set()
        self.is_away = False

    def keep(self, name: str, data: bytes) -> StoredFile:
        """See FileStore."""
        assert self.gate.wait(30)
        if self.is_away:
            raise StoreUnavailable
        return super().keep(name, data)


class Studio:
    """A painter with what a test looks at."""

    def __init__(self, settings: Settings) -> None:
        self.store = GatedStore(settings.files)
        self.recorder = PrometheusRecorder()
        self.painter = Painter(settings, self.store, self.recorder)

    def counted(self, name: str) -> float:
        """The value of one sample."""
        lines = self.recorder.exposition().decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    @property
    def num_lost(self) -> float:
        """Pictures that came to nothing."""
        return self.counted("florence_postprocess_pictures_lost_total")


@pytest.fixture
def studio(settings: Settings) -> Studio:
    """A painter and its store."""
    return Studio(settings)


def drawing(source: bytes | None = None, **more: Any) -> Drawing:
    """A box on a white picture of 64×48 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "white").save(buffer, "PNG")
    given = np.frombuffer(buffer.getvalue() if source is None else source, np.uint8)
    boxes = [BoundingBox(x=10, y=10, w=30, h=20, label="")]
    return Drawing("the-request", given, boxes, **{"ttl_s": 60.0} | more)


async def test_a_painted_picture_is_stored(studio: Studio) -> None:
    """It is there, and measured, when it is told."""
    stored = await studio.painter.paint(drawing())

    assert stored
    assert studio.store.find(stored.name) == stored
    with Image.open(io.BytesIO(studio.store.read(stored, 0, stored.size))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 48))
        assert picture.getextrema() != ((255, 255),) * 3
    assert studio.counted("florence_postprocess_picture_seconds_count") == 1.0


async def test_a_promised_picture_comes_later(studio: Studio) -> None:
    """Its name is known before it is drawn, and leads to it soon."""
    studio.store.gate.clear()
    name = studio.painter.promise(drawing(), KEY)
    assert name
    assert is_promised(name, KEY)
    assert studio.store.find(name) is None
    assert studio.painter.is_busy
    studio.store.gate.set()

    file = await find_soon(studio.store, name)
    assert file
    assert file.size > 0


async def test_drain_waits_for_every_promise(studio: Studio) -> None:
    """Whoever stops keeps them all."""
    studio.store.gate.clear()
    names = [studio.painter.promise(drawing(), KEY) for _ in range(5)]
    draining = asyncio.create_task(studio.painter.drain())
    await asyncio.sleep(0.05)
    assert not draining.done()
    studio.store.gate.set()
    await draining

    assert all(name and studio.store.find(name) for name in names)
    assert not studio.painter.is_busy


async def test_only_so_many_are_promised(studio: Studio) -> None:
    """Beyond the bound none is promised, until some are kept."""
    studio.store.gate.clear()
    names = [studio.painter.promise(drawing(), KEY) for _ in range(PROMISES_PER_THREAD + 3)]
    assert [name is None for name in names] == [False] * PROMISES_PER_THREAD + [True] * 3
    studio.store.gate.set()
    await studio.painter.drain()

    assert studio.painter.promise(drawing(), KEY)
    await studio.painter.drain()


@pytest.mark.parametrize("way", ["paint", "promise"])
async def test_a_picture_without_a_place_is_lost(
    studio: Studio, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """It is counted, and logged with its request."""
    caplog.set_level(logging.WARNING, "ray.serve.florence")
    studio.store.is_away = True
    if way == "paint":
        assert await studio.painter.paint(drawing()) is None
    else:
        name = studio.painter.promise(drawing(), KEY)
        await studio.painter.drain()
        assert name
        assert studio.store.find(name) is None

    assert studio.num_lost == 1.0
    assert "request the-request: its picture is lost" in caplog.text


async def test_nothing_is_promised_while_the_store_is_away(studio: Studio) -> None:
    """After a loss pictures come before their answers, until one is stored again."""
    studio.store.is_away = True
    assert studio.painter.promise(drawing(), KEY)
    await studio.painter.drain()
    assert studio.painter.promise(drawing(), KEY) is None

    studio.store.is_away = False
    assert await studio.painter.paint(drawing())
    assert studio.painter.promise(drawing(), KEY)
    await studio.painter.drain()


async def test_a_broken_image_costs_its_own_picture_alone(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what was wrong with it; the next is promised as before."""
    caplog.set_level(logging.WARNING, "ray.serve.florence")
    assert studio.painter.promise(drawing(b"\x89PNG\r\n\x1a\n broken"), KEY)
    await studio.painter.drain()

    assert studio.num_lost == 1.0
    assert caplog.records[-1].levelno == logging.WARNING
    assert "the PNG file is damaged" in caplog.text
    assert studio.painter.promise(drawing(), KEY)
    await studio.painter.drain()


async def test_a_silent_store_costs_the_picture_and_not_the_answer(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it longer than a moment, nor the next one at all; then all is as before."""
    monkeypatch.setattr(painter, "SILENT_S", 0.2)
    studio.store.gate.clear()
    assert await studio.painter.paint(drawing()) is None
    assert studio.painter.promise(drawing(), KEY) is None
    assert await studio.painter.paint(drawing()) is None

    studio.store.gate.set()
    async with asyncio.timeout(60):
        while await studio.painter.paint(drawing()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert studio.painter.promise(drawing(), KEY) is not None
    await studio.painter.drain()
