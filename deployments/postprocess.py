"""The Postprocess box: token ids → fal's answer, with an annotated picture in the file store.

The picture is drawn at once, not at its first download: that costs a few milliseconds
and its size is known for the answer.
A store that is full or away costs the picture, not the boxes.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel

from deployments.errors import StoreUnavailable
from deployments.florence.answer import Answer
from deployments.florence.checkpoint import open_checkpoint
from deployments.florence.run import Finished, Generated, Prepared, Run, Stages, Stopwatch
from deployments.florence.schemas import BoundingBoxes, Image
from deployments.florence.tasks import TASKS
from deployments.images.decode import decode
from deployments.images.draw import annotate, encode
from deployments.images.storage import FileStore, StoredFile, open_file_store
from deployments.metrics import RayRecorder, Recorder
from deployments.settings import Settings

logger = logging.getLogger("ray.serve.florence")  # Serve writes these to the replica's log

PRUNE_EVERY_S = 60.0


class Postprocess:
    """One replica; draws in threads."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder | None = None,
        files: FileStore | None = None,
    ) -> None:
        self._settings = settings
        self._vocabulary = open_checkpoint(settings.model).vocabulary
        self._files = files or open_file_store(settings.files)
        self._threads = ThreadPoolExecutor(settings.postprocess.draw_threads, "postprocess")
        self._recorder = recorder or RayRecorder()
        self._pruned = Stopwatch()

    async def run(self, prepared: Prepared, generated: Generated, run: Run) -> Finished:
        """The answer to `run` for the client."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._finish, prepared, generated, run
        )

    async def ready(self) -> bool:
        """Whether this box can work."""
        return True

    def _finish(self, prepared: Prepared, generated: Generated, run: Run) -> Finished:
        watch = Stopwatch()
        output, files = self._output(prepared, generated, run)
        self._prune()
        seconds = watch.seconds()
        self._recorder.record("florence_postprocess_seconds", seconds)
        return Finished(output, merged(prepared.stages, generated.stages, seconds), files)

    def _output(
        self, prepared: Prepared, generated: Generated, run: Run
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The output, and the names of the files in it."""
        task = TASKS[run.task]
        tokens = self._vocabulary.trim(generated.tokens)
        results = task.parse(Answer(tokens, self._vocabulary, prepared.size))
        output: dict[str, Any] = {"results": plain(results)}
        if not isinstance(results, BoundingBoxes) or not self._settings.postprocess.annotate:
            return output, ()
        stored = self._keep(self._draw(prepared, results), run)
        output["image"] = stored and describe(stored, prepared.size, run)
        return output, (stored.name,) if stored else ()

    def _draw(self, prepared: Prepared, results: BoundingBoxes) -> bytes:
        image = decode(prepared.source.tobytes(), self._settings.preprocess)
        return encode(annotate(image, results.bboxes), self._settings.postprocess.jpeg_quality)

    def _keep(self, picture: bytes, run: Run) -> StoredFile | None:
        try:
            return self._files.put(picture, "image/jpeg", run.files_ttl_s)
        except StoreUnavailable:
            logger.warning("request %s: its picture is not kept", run.id)
            return None

    def _prune(self) -> None:
        """Remove expired files now and then."""
        if self._pruned.seconds() <= PRUNE_EVERY_S:
            return
        self._pruned = Stopwatch()
        try:
            self._files.prune()
        except StoreUnavailable:
            logger.warning("expired files are not removed")


def describe(picture: StoredFile, size: tuple[int, int], run: Run) -> Any:
    """The stored picture of this (width, height) as JSON values."""
    width, height = size
    return plain(
        Image(
            url=f"{run.base_url}/cdn/files/{picture.name}",
            content_type=picture.content_type,
            file_name=picture.name,
            file_size=picture.size,
            width=width,
            height=height,
        )
    )


def plain(value: BaseModel | str) -> Any:
    """JSON values of a result."""
    return value.model_dump() if isinstance(value, BaseModel) else value


def merged(prepared: Stages, generated: Stages, postprocess_s: float) -> Stages:
    """The stages of all three boxes in one."""
    return generated.with_(
        fetch_s=prepared.fetch_s,
        decode_s=prepared.decode_s,
        source_bytes=prepared.source_bytes,
        width=prepared.width,
        height=prepared.height,
        postprocess_s=postprocess_s,
    )
