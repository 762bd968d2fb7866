"""The Postprocess deployment: token ids → fal's answer, with its picture in the file store.

A synchronous request is answered as soon as its boxes are known: the picture is drawn afterwards,
and a download waits for it. A job is answered when its picture is stored, because its result is
kept, and must not name a file that a crash may lose.
When the file store is full or unavailable, the answer has no picture.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any

from deployments.errors import StoreUnavailable
from deployments.files.base import FileStore, content_type_of
from deployments.files.pending_pictures import Picture, PictureWriter
from deployments.files.write_probe import WriteProbe, open_writable_store
from deployments.florence.checkpoint import open_checkpoint
from deployments.florence.messages import Finished, Generated, Prepared, Request, Stopwatch
from deployments.florence.parsing import ModelAnswer
from deployments.florence.schemas import Image, Shapes
from deployments.florence.tasks import TASKS, Task
from deployments.images.annotate import LARGEST_SIDE, Drawable, annotated
from deployments.settings import Settings
from deployments.telemetry.log import hide_client_errors, logger
from deployments.telemetry.metrics import RayRecorder, Recorder
from deployments.telemetry.process_metrics import ProcessMetrics
from deployments.telemetry.tracing import Tracer, open_tracer, traceparent

DROPPED = "florence_postprocess_shapes_dropped_total"
PRUNE_EVERY_S = 60.0


class Postprocess:
    """One replica; reads answers and draws in threads."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder | None = None,
        files: FileStore | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        hide_client_errors()
        self._annotate = settings.postprocess.annotate
        self._files_ttl_s = settings.files.expires_s
        self._vocabulary = open_checkpoint(settings.model).vocabulary
        self._files = files or open_writable_store(settings.files)
        self._write_probe = WriteProbe(self._files)
        self._recorder = recorder or RayRecorder()
        self._metrics = ProcessMetrics(self._recorder, "Postprocess")
        self._tracer = tracer or open_tracer(settings.tracing, "Postprocess")
        self._limits, self._quality = settings.preprocess, settings.postprocess.jpeg_quality
        self._pictures = PictureWriter(
            settings.postprocess.draw_threads, self._files, self._recorder, self._tracer
        )
        self._pruned = Stopwatch()

    async def run(self, prepared: Prepared, generated: Generated, request: Request) -> Finished:
        """The answer to `request` for the client; its picture may still have to be drawn."""
        with self._tracer.span("postprocess", request.trace, request_id=request.id) as span:
            watch = Stopwatch()
            request = replace(request, trace=traceparent(span))
            output, files = await self._answer(prepared, generated, request)
            stages = generated.stages.with_(postprocess_s=watch.seconds())
            stages.record(self._recorder, "Postprocess")
            self._prune()
            return Finished(output, stages, files, model=generated.model)

    async def ready(self) -> bool:
        """Whether pictures can be stored: an answer would name one that is not there."""
        return await self._write_probe.is_writable()

    async def stop(self) -> None:
        """Finish the pictures that answers name."""
        await self._pictures.finish()
        await asyncio.to_thread(self._tracer.close)

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve calls this when it stops a replica, and awaits what it gets."""
        pictures = getattr(self, "_pictures", None)  # missing when __init__ has failed
        if pictures and pictures.is_busy:
            return self.stop()
        if pictures:
            self._tracer.close()
        return None

    async def _answer(
        self, prepared: Prepared, generated: Generated, request: Request
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The output as JSON values, and the names of its files."""
        task = TASKS[request.task]
        answer = ModelAnswer.of(
            generated.tokens,
            self._vocabulary,
            prepared.size,
            generated.scores,
            generated.truncated,
        )
        results = await self._results(task, answer, request)
        extensions = extensions_of(task, answer)
        if task.draw is None or not self._annotate:
            return task.output_of(results, **extensions), ()
        image, files = await self._picture(prepared, task.draw(results), request)
        return task.output_of(results, image=image, **extensions), files

    async def _results(self, task: Task, answer: ModelAnswer, request: Request) -> Any:
        """What was found; what the model wrote that is no shape is counted."""
        results = await asyncio.to_thread(task.read, answer, request.input)
        if isinstance(results, Shapes) and results.num_dropped:
            self._recorder.record(DROPPED, results.num_dropped, endpoint=task.endpoint)
        return results

    async def _picture(
        self, prepared: Prepared, shapes: Iterable[Drawable], request: Request
    ) -> tuple[Image | None, tuple[str, ...]]:
        """The picture and the name of its file; None and no name without one."""
        if max(prepared.size) > LARGEST_SIDE:
            return None, ()
        ttl_s = self._files_ttl_s if request.files_ttl_s is None else request.files_ttl_s
        source = prepared.source

        def draw() -> bytes:
            return annotated(source.tobytes(), shapes, self._limits, self._quality)

        picture = Picture(request.id, draw, ttl_s, key_id=request.key_id, trace=request.trace)
        key = request.picture_key
        if key and (name := self._pictures.write_later(picture, key)):
            return describe(name, None, prepared.size, request), (name,)
        stored = await self._pictures.write(picture)
        if stored is None:
            return None, ()
        return describe(stored.name, stored.size, prepared.size, request), (stored.name,)

    def _prune(self) -> None:
        """Remove expired files from time to time, in the background."""
        if self._pruned.seconds() > PRUNE_EVERY_S:
            self._pruned = Stopwatch()
            asyncio.get_running_loop().run_in_executor(None, prune, self._files)


def extensions_of(task: Task, answer: ModelAnswer) -> dict[str, Any]:
    """The fields beside fal's: how sure the model was of a text, and whether it was cut."""
    return {**task.score(answer), **({"truncated": True} if answer.truncated else {})}


def prune(files: FileStore) -> None:
    """Remove expired files; the next call does what this one cannot."""
    try:
        files.prune()
    except StoreUnavailable:
        logger.warning("expired files are not removed")


def describe(name: str, file_size: int | None, size: tuple[int, int], request: Request) -> Image:
    """The picture called `name` of this (width, height).

    `file_size` is in bytes, None until it is drawn.
    """
    width, height = size
    return Image(
        url=f"{request.base_url}/cdn/files/{name}",
        content_type=content_type_of(name),
        file_name=name,
        file_size=file_size,
        width=width,
        height=height,
    )
