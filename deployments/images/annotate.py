"""Draws the annotated pictures and stores them, in threads: before the answer that names them
is given, or while it travels.
"""

import asyncio
import math
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.errors import StoreUnavailable
from deployments.files.base import FileStore, StoredFile, new_name
from deployments.files.pending import promised_name
from deployments.images.decode import decode
from deployments.images.draw import LabelledBox, annotate, encode
from deployments.settings import Settings
from deployments.telemetry.log import about, logger
from deployments.telemetry.metrics import Recorder
from deployments.telemetry.tracing import OFF, Span, Tracer

CONTENT_TYPE = "image/jpeg"
SILENT_S = 5.0  # a store that has said nothing for so long is not waited for
LOOK_S = 0.5
# A download waits 5 s for its picture; large photographs take a thread half a second each.
PROMISES_PER_THREAD = 8


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn: `boxes` on the image that is encoded in `source`, for one request.

    `ttl_s` is how long the picture is kept, in seconds.
    """

    request_id: str
    source: NDArray[np.uint8]
    boxes: Iterable[LabelledBox]
    ttl_s: float
    key_id: str = ""
    trace: str = ""


class Painter:
    """Draws a bounded number of pictures at a time, and promises a bounded number of others."""

    def __init__(
        self, settings: Settings, files: FileStore, recorder: Recorder, tracer: Tracer = OFF
    ) -> None:
        num_threads = settings.postprocess.draw_threads
        self._limits = settings.preprocess
        self._quality = settings.postprocess.jpeg_quality
        self._files = files
        self._recorder = recorder
        self._tracer = tracer
        self._threads = ThreadPoolExecutor(num_threads, "draw")
        self._max_promised = PROMISES_PER_THREAD * num_threads
        self._promised: set[Future[StoredFile | None]] = set()
        self._is_store_away = False
        self._storing: dict[str, float] = {}  # since when, by name

    @property
    def is_busy(self) -> bool:
        """Whether a promise is still to be kept."""
        return bool(self._promised)

    async def paint(self, drawing: Drawing) -> StoredFile | None:
        """The stored picture; None when it could not be drawn or stored, or the store is silent."""
        if self._is_store_silent():
            self._lose(drawing, StoreUnavailable())
            return None
        future = self._threads.submit(self._paint, drawing, new_name(CONTENT_TYPE, drawing.ttl_s))
        painted = asyncio.wrap_future(future)
        while not painted.done():
            await asyncio.wait({painted}, timeout=LOOK_S)
            if self._is_store_silent() and not painted.done():
                if future.cancel():  # else its thread tells what becomes of it
                    self._lose(drawing, StoreUnavailable())
                return None
        return painted.result()

    def promise(self, drawing: Drawing, key: str) -> str | None:
        """The name, made with `key`, under which the picture will be found soon.

        None when it is better painted first: so many are promised that memory would grow,
        or the store was away for the last one, or says nothing.
        """
        is_full = len(self._promised) >= self._max_promised
        if is_full or self._is_store_away or self._is_store_silent():
            return None
        name = promised_name(key, CONTENT_TYPE, drawing.ttl_s)
        future = self._threads.submit(self._paint, drawing, name)
        self._promised.add(future)
        future.add_done_callback(self._promised.discard)
        return name

    async def drain(self) -> None:
        """Wait until every promise is kept."""
        await asyncio.gather(*map(asyncio.wrap_future, tuple(self._promised)))

    def _paint(self, drawing: Drawing, name: str) -> StoredFile | None:
        with self._tracer.span("picture", drawing.trace, request_id=drawing.request_id) as span:
            return self._painted(drawing, name, span)

    def _painted(self, drawing: Drawing, name: str, span: Span) -> StoredFile | None:
        began = time.perf_counter()
        try:
            file = self._keep(name, self._draw(drawing))
        except Exception as error:  # whatever a picture fails of, its answer is right
            span.fail(error)
            self._lose(drawing, error)
            return None
        self._is_store_away = False
        seconds = time.perf_counter() - began
        self._recorder.record("florence_postprocess_picture_seconds", seconds)
        return file

    def _keep(self, name: str, picture: bytes) -> StoredFile:
        self._storing[name] = time.monotonic()
        try:
            return self._files.keep(name, picture)
        finally:
            del self._storing[name]

    def _is_store_silent(self) -> bool:
        oldest = min(tuple(self._storing.values()), default=math.inf)
        return time.monotonic() - oldest > SILENT_S

    def _draw(self, drawing: Drawing) -> bytes:
        image = decode(drawing.source.tobytes(), self._limits)
        return encode(annotate(image, drawing.boxes), self._quality)

    def _lose(self, drawing: Drawing, error: Exception) -> None:
        self._is_store_away = isinstance(error, StoreUnavailable)
        self._recorder.record("florence_postprocess_pictures_lost_total")
        cause = None if self._is_store_away else error  # the store has told of its own
        extra = about(drawing.request_id, drawing.key_id, drawing.trace)
        logger.warning(
            "request %s: its picture is lost", drawing.request_id, exc_info=cause, extra=extra
        )
