"""What a server built with LitServe or BentoML does with a request, apart from the serving.

The same work as ours by the same functions, so that only the serving differs:
the data URI is unpacked and decoded, the boxes are parsed, the annotated picture is drawn and kept.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel

from deployments.files.base import new_name
from deployments.files.local import LocalFileStore
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.parsing import ModelAnswer, unlabelled_boxes
from deployments.florence.schemas import BoundingBoxes
from deployments.florence.sequence import Pixels, Tokens
from deployments.florence.vocabulary import Vocabulary
from deployments.images.annotate import annotate, encode
from deployments.images.data_uri import read_data_uri
from deployments.images.decode import decode, to_pixels
from deployments.settings import FileSettings, PreprocessSettings
from loadtest.bench.reference import BATCH, Reference

VARIABLE = "FLORENCE_PEER"
JPEG_QUALITY = 90
KEPT_S = 3600.0
SETTINGS = PreprocessSettings()


class PeerJob(BaseModel):
    """What to serve and how; a peer's process finds it in its environment."""

    checkpoint: Path
    num_beams: int | None
    num_tokens: int | None
    folder: Path = Path()  # for pictures, and for a record of the passes

    @classmethod
    def read(cls) -> Self:
        return cls.model_validate_json(os.environ[VARIABLE])

    def environment(self) -> dict[str, str]:
        return {VARIABLE: self.model_dump_json()}

    def record(self, done: "ModelPass") -> None:
        """Record a pass; the processes of a server share one file."""
        with (self.folder / "passes").open("a") as file:
            file.write(done.model_dump_json() + "\n")

    def passes(self) -> "list[ModelPass]":
        lines = (self.folder / "passes").read_text().splitlines()
        return [ModelPass.model_validate_json(line) for line in lines]


class ModelPass(BaseModel):
    """One pass through the model: how many requests, and how many processor seconds."""

    num_requests: int
    cpu_s: float


class DecodedImage(NamedTuple):
    """An upright image, and its pixels at the model's size."""

    image: Image.Image
    pixels: Pixels


class Pictures:
    def __init__(self, job: PeerJob) -> None:
        self._checkpoint = Checkpoint(job.checkpoint)
        self._files = LocalFileStore(FileSettings(root=str(job.folder)))
        self._drawing = ThreadPoolExecutor(1)

    def decode(self, image_url: str) -> DecodedImage:
        image = decode(read_data_uri(image_url, SETTINGS.max_bytes), SETTINGS)
        return DecodedImage(
            image, to_pixels(image, self._checkpoint.image_size, self._checkpoint.resample)
        )

    def answer(self, tokens: Tokens, image: Image.Image) -> dict[str, Any]:
        """The boxes, and the name of the picture, which is drawn while the answer travels."""
        boxes = boxes_of(tokens, self._checkpoint.vocabulary, image.size)
        name = new_name("image/jpeg", KEPT_S)
        self._drawing.submit(self._draw, name, image, boxes)
        return {"results": boxes.model_dump(), "image": {"file_name": name}}

    def _draw(self, name: str, image: Image.Image, boxes: BoundingBoxes) -> None:
        self._files.create(name, [encode(annotate(image, boxes.bboxes), JPEG_QUALITY)])


def boxes_of(tokens: Tokens, vocabulary: Vocabulary, size: tuple[int, int]) -> BoundingBoxes:
    """The boxes of an answer about an image of this (width, height)."""
    return unlabelled_boxes(ModelAnswer(vocabulary.trim(tokens), vocabulary, size))


class PeerModel:
    """The model; it records what its passes cost."""

    def __init__(self, job: PeerJob) -> None:
        self._job = job
        self._reference = Reference(job.checkpoint, job.num_beams, job.num_tokens)
        width, height = self._reference.checkpoint.image_size
        self.generate([np.zeros((height, width, 3), np.uint8)] * BATCH)

    def generate(self, images: Sequence[Pixels]) -> list[Tokens]:
        began = time.thread_time()
        answers = self._reference.generate(images)
        self._job.record(ModelPass(num_requests=len(images), cpu_s=time.thread_time() - began))
        return answers
