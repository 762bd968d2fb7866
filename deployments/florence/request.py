"""One request on its way through the pipeline, and what each stage hands to the next."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deployments.errors import RequestTimeout, ServiceError, StartTimeout

Pixels = NDArray[np.uint8]
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """A request: what to do, by when, and where its pictures will be found.

    Times are seconds since the epoch, because a run crosses machines;
    machines of one cluster keep their clocks in step.
    """

    id: str
    task: str
    image_url: str
    deadline: float
    start_by: float = float("inf")
    priority: int = 0
    base_url: str = ""
    files_ttl_s: float | None = None  # how long its picture is wanted; None for the usual time
    num_beams: int | None = None  # None for the deployment's
    key_id: str = ""  # of the key that asks
    picture_key: str = field(default="", repr=False)  # promises its picture; without, that is first
    trace: str = ""  # W3C's `traceparent` of what the boxes' spans are children of

    def without_image(self) -> Self:
        """The same run for boxes that need no address: a data URI can be as long as its file."""
        return replace(self, image_url="")

    def expired(self, now: float) -> ServiceError | None:
        """The error to answer with when the run has not begun by `now`."""
        if now >= self.start_by:
            return StartTimeout()
        if now >= self.deadline:
            return RequestTimeout()
        return None

    def patience(self, now: float) -> float:
        """Seconds from `now` that the run may still wait to begin."""
        return min(self.start_by, self.deadline) - now


@dataclass(frozen=True)
class Stages:
    """Seconds spent in each stage, what went through it, and the batch that the run was part of.

    `width` and `height` are the image's own, in pixels.
    """

    fetch_s: float = 0.0
    decode_s: float = 0.0
    queue_wait_s: float = 0.0
    model_s: float = 0.0
    postprocess_s: float = 0.0
    batch_size: int = 0
    batch_share: float = 0.0
    num_tokens: int = 0
    source_bytes: int = 0
    width: int = 0
    height: int = 0

    def with_(self, **seconds: Any) -> Self:
        """These stages with some of them known."""
        return replace(self, **seconds)

    def measured(self) -> dict[str, float]:
        """The same for logs and traces, times in milliseconds."""
        return {
            "fetch_ms": milliseconds(self.fetch_s),
            "decode_ms": milliseconds(self.decode_s),
            "queue_wait_ms": milliseconds(self.queue_wait_s),
            "model_ms": milliseconds(self.model_s),
            "postprocess_ms": milliseconds(self.postprocess_s),
            "batch_size": self.batch_size,
            "tokens": self.num_tokens,
            "source_bytes": self.source_bytes,
        }


@dataclass(frozen=True)
class Prepared:
    """An image that is ready for the model.

    `pixels` is RGB at the model's own size, (height, width, 3);
    `source` holds the bytes as they came, to draw on;
    `digest` is equal for equal pixels, where images may be remembered;
    `size` is the (width, height) of the image as a person sees it.
    """

    pixels: Pixels
    source: Pixels
    size: tuple[int, int]
    stages: Stages = field(default_factory=Stages)
    digest: str = ""

    def to_read(self) -> Self:
        """What the model needs of it."""
        return replace(self, source=self.source[:0])

    def to_draw(self) -> Self:
        """What its picture needs of it."""
        return replace(self, pixels=self.pixels[:0])


class Grammar(IntEnum):
    """What an answer may look like, where decoding is constrained."""

    FREE = 0
    BOXES = 1  # nothing but boxes
    LABELLED = 2  # texts, each before its boxes


@dataclass(frozen=True)
class Query:
    """One sequence to write: RGB pixels (height, width, 3), the prompt's token ids, and its bounds.

    Without a number of beams or of new tokens it has the deployment's;
    `image_key` is equal for equal images of the same caller, where images may be remembered.
    """

    pixels: Pixels
    prompt: Sequence[int]
    num_beams: int | None = None
    max_new_tokens: int | None = None
    grammar: Grammar = Grammar.FREE
    image_key: str | None = None


@dataclass(frozen=True)
class Partial:
    """What the model has said so far about an image of `size` (width, height)."""

    tokens: Tokens
    size: tuple[int, int]


@dataclass(frozen=True)
class Generated:
    """The model's answer: token ids without padding."""

    tokens: Tokens
    stages: Stages


@dataclass(frozen=True)
class Finished:
    """The answer for the client, as JSON values, how long each stage took, and files it names.

    `attempt` is the one that came through, from 1.
    """

    output: dict[str, Any]
    stages: Stages
    files: tuple[str, ...] = ()
    attempt: int = 1


def milliseconds(seconds: float) -> float:
    """Seconds in milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def seconds(self) -> float:
        """Seconds until now."""
        return time.perf_counter() - self._began
