"""Pending files: an answer names a picture that is still being drawn, and a download waits for it.

Half of the random digits of a pending file's name follow from the rest of the name and a key.
With the key, a process on any machine distinguishes a pending name from an invented one without a
call; without the key the name is as hard to guess as every other name of the store.
"""

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from deployments.errors import StoreUnavailable
from deployments.files.base import FileStore, StoredFile, is_served, new_name
from deployments.telemetry.log import about, logger
from deployments.telemetry.metrics import Recorder
from deployments.telemetry.tracing import OFF, Tracer

WAIT_S = 5.0
PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25
SLOWER = 1.5  # each call that finds nothing makes the next pause longer by this factor
CONTENT_TYPE = "image/jpeg"
SILENT_S = 5.0  # a store that takes longer for one file is not waited for
CHECK_EVERY_S = 0.5
# A download waits 5 s for its picture; large photographs take a thread half a second each.
PENDING_PER_THREAD = 8


def pending_name(key: str, content_type: str, ttl_s: float) -> str:
    """A name for a file that is served for `ttl_s` seconds from now, made with `key`."""
    name = new_name(content_type, ttl_s)
    return name[:16] + mark(key, name) + name[32:]


def is_pending(name: str, key: str) -> bool:
    return hmac.compare_digest(name[16:32].encode(), mark(key, name).encode())


def mark(key: str, name: str) -> str:
    """The 16 hex digits that belong in the middle of `name`."""
    words = name[:16] + name[32:]
    return hmac.new(key.encode(), words.encode(), hashlib.sha256).hexdigest()[:16]


async def wait_for_file(store: FileStore, name: str) -> StoredFile | None:
    """The file called `name`, which may still be written; None when it does not come in time.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    pause_s = PAUSE_S
    with suppress(TimeoutError):
        async with asyncio.timeout(WAIT_S):
            while is_served(name):
                file = await asyncio.to_thread(store.find, name)
                if file is not None:
                    return file
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * SLOWER, LONGEST_PAUSE_S)
    return None


@dataclass(frozen=True)
class Picture:
    """A picture that `draw` makes for one request: a JPEG, which is kept for `ttl_s` seconds."""

    request_id: str
    draw: Callable[[], bytes]
    ttl_s: float
    key_id: str = ""
    trace: str = ""


class PictureWriter:
    """Draws pictures in `num_threads` threads and stores them; a bounded number may be pending."""

    def __init__(
        self, num_threads: int, files: FileStore, recorder: Recorder, tracer: Tracer = OFF
    ) -> None:
        self._files = files
        self._recorder = recorder
        self._tracer = tracer
        self._threads = ThreadPoolExecutor(num_threads, "draw")
        self._max_pending = PENDING_PER_THREAD * num_threads
        self._pending: set[Future[StoredFile | None]] = set()
        self._is_store_away = False
        self._storing: dict[str, float] = {}  # by name, since when

    @property
    def is_busy(self) -> bool:
        return bool(self._pending)

    async def write(self, picture: Picture) -> StoredFile | None:
        """The stored picture; None when drawing or storing fails, or the store does not answer."""
        if self._is_store_silent():
            self._lose(picture, StoreUnavailable())
            return None
        future = self._threads.submit(self._write, picture, new_name(CONTENT_TYPE, picture.ttl_s))
        written = asyncio.wrap_future(future)
        while not written.done():
            await asyncio.wait({written}, timeout=CHECK_EVERY_S)
            if self._is_store_silent() and not written.done():
                if future.cancel():  # else its thread logs how it ends
                    self._lose(picture, StoreUnavailable())
                return None
        return written.result()

    def write_later(self, picture: Picture, key: str) -> str | None:
        """The name, made with `key`, under which the picture is stored soon.

        None when it must be written first: too many are pending, which would cost memory, or the
        store failed for the last one or does not answer.
        """
        is_full = len(self._pending) >= self._max_pending
        if is_full or self._is_store_away or self._is_store_silent():
            return None
        name = pending_name(key, CONTENT_TYPE, picture.ttl_s)
        future = self._threads.submit(self._write, picture, name)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return name

    async def finish(self) -> None:
        await asyncio.gather(*map(asyncio.wrap_future, tuple(self._pending)))

    def _write(self, picture: Picture, name: str) -> StoredFile | None:
        began = time.perf_counter()
        try:
            with self._tracer.span("picture", picture.trace, request_id=picture.request_id):
                file = self._keep(name, picture.draw())
        except Exception as error:  # without its picture the answer is still right
            self._lose(picture, error)
            return None
        self._is_store_away = False
        seconds = time.perf_counter() - began
        self._recorder.record("florence_postprocess_picture_seconds", seconds)
        return file

    def _keep(self, name: str, data: bytes) -> StoredFile:
        self._storing[name] = time.monotonic()
        try:
            return self._files.keep(name, data)
        finally:
            del self._storing[name]

    def _is_store_silent(self) -> bool:
        oldest = min(tuple(self._storing.values()), default=math.inf)
        return time.monotonic() - oldest > SILENT_S

    def _lose(self, picture: Picture, error: Exception) -> None:
        self._is_store_away = isinstance(error, StoreUnavailable)
        self._recorder.record("florence_postprocess_pictures_lost_total")
        cause = None if self._is_store_away else error  # the store has logged its own
        extra = about(picture.request_id, picture.key_id, picture.trace)
        logger.warning(
            "request %s: its picture is lost", picture.request_id, exc_info=cause, extra=extra
        )
