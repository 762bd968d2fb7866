"""One request on its way through the pipeline, and what each deployment hands to the next."""

import time
from dataclasses import dataclass, field, replace
from typing import Any, Self

from deployments.florence.schemas import ImageInput
from deployments.florence.sequence import Pixels, Tokens
from deployments.florence.stages import Stages
from deployments.florence.token_scores import TokenScores


@dataclass(frozen=True)
class Request:
    """What to do, by when, and where the picture will be found.

    Times are seconds since the epoch, because a request crosses machines;
    machines of one cluster keep their clocks in step.
    """

    id: str
    task: str
    input: ImageInput
    deadline: float
    start_by: float = float("inf")
    priority: int = 0
    base_url: str = ""
    files_ttl_s: float | None = None  # of its picture; None for the deployment's
    key_id: str = ""
    picture_key: str = field(default="", repr=False)  # names a pending picture; "" waits for it
    trace: str = ""  # W3C's `traceparent` of what the deployments' spans are children of

    def without_image(self) -> Self:
        """The same for the stages after Preprocess: a data URI can be as long as its file."""
        return replace(self, input=self.input.model_copy(update={"image_url": ""}))


@dataclass(frozen=True)
class Prepared:
    """An image that is ready for the model.

    `pixels` is RGB at the model's own size, (height, width, 3);
    `source` holds the bytes as they came, to draw on;
    `digest` is equal for equal pixels, where the model encodes equal images once;
    `size` is the (width, height) of the image as a person sees it.
    """

    pixels: Pixels
    source: Pixels
    size: tuple[int, int]
    stages: Stages = field(default_factory=Stages)
    digest: str = ""

    def without_source(self) -> Self:
        """What the model needs of it."""
        return replace(self, source=self.source[:0])

    def without_pixels(self) -> Self:
        """What its picture needs of it."""
        return replace(self, pixels=self.pixels[:0])


@dataclass(frozen=True)
class Partial:
    """The tokens so far of an answer of `model` about an image of `size` (width, height).

    They begin with the start token; `scores` are there where they are wanted.
    """

    tokens: Tokens
    size: tuple[int, int]
    model: str = ""
    scores: TokenScores | None = None


@dataclass(frozen=True)
class Generated:
    """The model's answer: token ids without padding, and which model it was, see `identity`.

    `scores` are there where they are wanted. A truncated one would have gone on beyond its limit.
    """

    tokens: Tokens
    stages: Stages
    model: str = ""
    scores: TokenScores | None = None
    truncated: bool = False


@dataclass(frozen=True)
class PartialOutput:
    """The output so far, as JSON values, and the model that writes it."""

    output: dict[str, Any]
    model: str = ""


@dataclass(frozen=True)
class Finished:
    """The answer for the client, as JSON values, how long each stage took, and files it names.

    `attempt` is the one that succeeded, from 1; `model` is the one that answered.
    """

    output: dict[str, Any]
    stages: Stages
    files: tuple[str, ...] = ()
    attempt: int = 1
    model: str = ""


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._began
