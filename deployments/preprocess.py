"""The Preprocess deployment: an image's URL → its pixels at the model's size.

An image in our own file store is read from there, without HTTP. Of the model, only the image size
is known here.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from deployments.errors import FileDownloadError, InternalError
from deployments.files.base import FileStore
from deployments.files.open import open_file_store
from deployments.files.own_urls import own_name, read_own
from deployments.florence.checkpoint import open_checkpoint
from deployments.florence.messages import Prepared, Request, Stopwatch
from deployments.florence.sequence import Pixels
from deployments.florence.stages import Stages
from deployments.images.data_uri import hint_of_url, read_data_uri
from deployments.images.decode import decode, to_pixels
from deployments.images.fetch import Fetcher
from deployments.images.single_flight import SingleFlight
from deployments.settings import Settings
from deployments.telemetry.log import hide_client_errors
from deployments.telemetry.metrics import RayRecorder, Recorder
from deployments.telemetry.process_metrics import ProcessMetrics
from deployments.telemetry.tracing import Tracer, open_tracer

LONGEST_DECODE_S = 120.0

T = TypeVar("T")


class Preprocess:
    """One replica; decodes in threads, since Pillow releases the GIL."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder | None = None,
        files: FileStore | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        hide_client_errors()
        self._settings = settings.preprocess
        self._needs_digest = settings.inference.backend == "engine"
        self._public_url = settings.ingress.public_url or ""
        self._files = files or open_file_store(settings.files)
        self._checkpoint = open_checkpoint(settings.model)
        self._fetcher = Fetcher(settings.preprocess)
        self._threads = ThreadPoolExecutor(settings.preprocess.decode_threads, "Preprocess")
        self._under_way: SingleFlight[Prepared] = SingleFlight()
        self._decoding: dict[int, float] = {}
        self._recorder = recorder or RayRecorder()
        self._metrics = ProcessMetrics(self._recorder, "Preprocess")
        self._tracer = tracer or open_tracer(settings.tracing, "Preprocess")

    async def run(self, request: Request) -> Prepared:
        """The image of `request`, ready for the model.

        Raises:
            InputError: it cannot be fetched or read.
            StoreUnavailable: it is ours, and the file store does not answer.
        """
        with self._tracer.span("preprocess", request.trace, request_id=request.id) as span:
            watch = Stopwatch()
            prepared = await self._prepared(request)
            prepared.stages.record(self._recorder, "Preprocess")
            prepared.stages.trace(self._tracer, span, "Preprocess", watch.seconds())
            return prepared

    def __del__(self) -> None:
        """Serve calls this when it stops a replica."""
        if hasattr(self, "_tracer"):  # missing when __init__ has failed
            self._tracer.close()

    def check_health(self) -> None:
        """Serve calls this; a thread cannot be stopped, but its replica can.

        Raises:
            InternalError: an image has been decoding for minutes.
        """
        oldest = min(self._decoding.values(), default=time.monotonic())
        if time.monotonic() - oldest > LONGEST_DECODE_S:
            raise InternalError("An image takes too long to decode.")

    async def ready(self) -> bool:
        return True

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)

    async def _prepared(self, request: Request) -> Prepared:
        """The image, together with those of the same key who ask for the same URL now."""
        watch = Stopwatch()
        key = (request.key_id, request.base_url, request.input.image_url)
        prepared, is_shared = await self._under_way(key, partial(self._read_and_prepare, request))
        return joined(prepared, watch.seconds()) if is_shared else prepared

    async def _read_and_prepare(self, request: Request) -> Prepared:
        watch = Stopwatch()
        source = await self._read(request)
        return await self._in_thread(self._prepare, source, watch.seconds())

    async def _read(self, request: Request) -> bytes:
        url, max_bytes = request.input.image_url, self._settings.max_bytes
        if url[:5].lower() == "data:":
            return await self._in_thread(read_data_uri, url, max_bytes)
        name = own_name(url, (request.base_url, self._public_url))
        if name is not None:
            return await read_own(self._files, name, max_bytes)
        try:
            return await self._fetcher.fetch(url)
        except FileDownloadError as error:
            raise error.with_hint(hint_of_url(url)) from None

    def _prepare(self, source: bytes, fetch_s: float) -> Prepared:
        watch = Stopwatch()
        image_id = id(watch)
        self._decoding[image_id] = time.monotonic()
        try:
            image = decode(source, self._settings)
            pixels = to_pixels(image, self._checkpoint.image_size, self._checkpoint.resample)
        finally:
            del self._decoding[image_id]
        stages = Stages(
            fetch_s=fetch_s,
            decode_s=watch.seconds(),
            source_bytes=len(source),
            width=image.width,
            height=image.height,
        )
        digest = digest_of(pixels) if self._needs_digest else ""
        return Prepared(pixels, np.frombuffer(source, np.uint8), image.size, stages, digest)


def joined(prepared: Prepared, seconds: float) -> Prepared:
    """What another request has begun, with the `seconds` that this one waited for it."""
    decode_s = min(prepared.stages.decode_s, seconds)
    stages = prepared.stages.with_(fetch_s=seconds - decode_s, decode_s=decode_s, fetches_shared=1)
    return replace(prepared, stages=stages)


def digest_of(pixels: Pixels) -> str:
    """A hash that is equal for equal pixels."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
