"""What the endpoints take and return, in fal's words.

Names, fields and descriptions follow fal's published types for `fal-ai/florence-2-large/*`.
Lengths are pixels of the input image as a person sees it, after its EXIF rotation.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from deployments.florence.sequence import LONGEST_NGRAM

IMAGE_URL = "The URL of the image to be processed: http(s), or a base64 data URI."
NUM_BEAMS = (
    "How many answers the search follows side by side: 1 is greedy, the fastest. "
    "At most, and by default, the service's own number. An extension of fal's schema."
)

MAX_NEW_TOKENS = (
    "The most tokens that the answer may have. At most, and by default, the service's own number. "
    "An answer that is cut there says truncated. An extension of fal's schema."
)
NO_REPEAT_NGRAM_SIZE = (
    "The length in tokens of the n-grams that may not come twice in the answer: 0 allows true "
    "repeats, as in tables. By default the service's own. An extension of fal's schema."
)
ADAPTER = (
    "The adapter that answers, by its name in this service; `base` is the model without any. By "
    "default the key's own, if it has one. An extension of fal's schema."
)
SCORES = "Whether the answer says how sure the model was. An extension of fal's schema."
MIN_SCORE = (
    "Leave out boxes, quads and polygons whose score is lower; turns scores on. "
    "An extension of fal's schema."
)
SCORE = "How sure the model was, from 0 to 1, where scores are asked for. An extension of fal's."
TRUNCATED = (
    "True where the answer was cut at its limit of tokens, else absent. "
    "An extension of fal's schema."
)


def offered(what: str) -> AfterValidator:
    """Refuses more than the validation's context allows of the field."""

    def check(value: int, info: ValidationInfo) -> int:
        most = (info.context or {}).get(info.field_name, value)
        if value > most:
            raise PydanticCustomError(
                "less_than_equal",
                f"Input should be less than or equal to {{le}}, the {what} of this deployment",
                {"le": most},
            )
        return value

    return AfterValidator(check)


class ImageInput(BaseModel):
    """The input of a task that needs nothing but an image; unknown fields are ignored."""

    model_config = ConfigDict(strict=True)

    image_url: Annotated[str, Field(min_length=1, description=IMAGE_URL)]
    num_beams: Annotated[int, Field(ge=1), offered("number of beams")] | None = Field(
        None, description=NUM_BEAMS
    )
    max_new_tokens: Annotated[int, Field(ge=1), offered("longest answer in tokens")] | None = Field(
        None, description=MAX_NEW_TOKENS
    )
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=LONGEST_NGRAM)] | None = Field(
        None, description=NO_REPEAT_NGRAM_SIZE
    )
    adapter: str | None = Field(None, max_length=64, description=ADAPTER)
    scores: bool | None = Field(None, description=SCORES)
    min_score: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description=MIN_SCORE)

    @property
    def is_scored(self) -> bool:
        return bool(self.scores) or self.min_score is not None


class ImageWithTextInput(ImageInput):
    """The input of a task about some words."""

    text_input: str = Field(description="Text input for the task", examples=[""])


def whole(value: Any) -> Any:
    """A float without a fraction as an integer: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Pixel = Annotated[int, BeforeValidator(whole)]


def beyond(start: str) -> AfterValidator:
    """Refuses an end of a region that is not beyond its start."""

    def check(end: int, info: ValidationInfo) -> int:
        if end <= info.data.get(start, end - 1):
            raise PydanticCustomError(
                "greater_than", "Input should be greater than {start}", {"start": start}
            )
        return end

    return AfterValidator(check)


class Region(BaseModel):
    """A rectangle in whole pixels; what lies outside the image is cut off."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"examples": [{"x1": 100, "y1": 100, "x2": 200, "y2": 200}]},
    )

    x1: Pixel = Field(description="Left side")
    y1: Pixel = Field(description="Upper side")
    x2: Annotated[Pixel, beyond("x1")] = Field(description="Right side, more than x1")
    y2: Annotated[Pixel, beyond("y1")] = Field(description="Lower side, more than y1")


class ImageWithUserCoordinatesInput(ImageInput):
    """The input of a task about a region of the image."""

    region: Region = Field(description="The user input coordinates")


class ScoredItem(BaseModel):
    """One thing that was found."""

    score: float | None = Field(None, description=SCORE)


class BoundingBox(ScoredItem):
    """A rectangle: its upper left corner, its size and what it shows."""

    kind: ClassVar[str] = "box"  # how it is drawn

    x: float = Field(description="X-coordinate of the top-left corner")
    y: float = Field(description="Y-coordinate of the top-left corner")
    w: float = Field(description="Width of the bounding box")
    h: float = Field(description="Height of the bounding box")
    label: str = Field(description="Label of the bounding box")


class Point(BaseModel):
    """A place in the image."""

    x: float = Field(description="X-coordinate of the point")
    y: float = Field(description="Y-coordinate of the point")


class OCRBoundingBoxSingle(ScoredItem):
    """A line of text, which may be turned: the upright rectangle around it, and its corners."""

    kind: ClassVar[str] = "quad"

    x: float = Field(description="X-coordinate of the top-left corner")
    y: float = Field(description="Y-coordinate of the top-left corner")
    w: float = Field(description="Width of the bounding box")
    h: float = Field(description="Height of the bounding box")
    label: str = Field(description="Label of the bounding box")
    points: list[Point] = Field(
        description="The four corners, the text's own top left first. An extension of fal's schema."
    )


class Polygon(ScoredItem):
    """The outline of a thing, or of one of its parts."""

    kind: ClassVar[str] = "polygon"

    points: list[Point] = Field(description="List of points")
    label: str = Field(description="Label of the polygon")


class Shapes(BaseModel):
    """What was found, in the model's order.

    `num_dropped` counts what the model wrote that is no shape: it is no part of the answer.
    """

    _num_dropped: int = PrivateAttr(0)

    def __len__(self) -> int:
        return sum(len(shapes) for _, shapes in self)

    @property
    def num_dropped(self) -> int:
        return self._num_dropped

    @classmethod
    def of(cls, made: Sequence[ScoredItem | None]) -> Self:
        """The shapes among `made`; None stands for what is no shape."""
        [name] = cls.model_fields
        shapes = cls.model_validate({name: [each for each in made if each is not None]})
        shapes._num_dropped = made.count(None)
        return shapes

    def at_least(self, score: float) -> Self:
        """Those whose score is known and no lower."""
        kept = {
            name: [shape for shape in shapes if (shape.score or 0.0) >= score]
            for name, shapes in self
        }
        return self.model_copy(update=kept)


class BoundingBoxes(Shapes):
    """All rectangles that were found, in the model's order."""

    bboxes: list[BoundingBox] = Field(description="List of bounding boxes")


class OCRBoundingBox(Shapes):
    """All lines of text that were found, in the model's order."""

    quad_boxes: list[OCRBoundingBoxSingle] = Field(description="List of quadrilateral boxes")


class PolygonOutput(Shapes):
    """All outlines that were found, in the model's order."""

    polygons: list[Polygon] = Field(description="List of polygons")


class Image(BaseModel):
    """A picture that can be downloaded without a key until it expires."""

    url: str = Field(description="The URL where the file can be downloaded from.")
    content_type: str | None = Field(None, description="The mime type of the file.")
    file_name: str | None = Field(None, description="The name of the file.")
    file_size: int | None = Field(None, description="The size of the file in bytes.")
    width: int | None = Field(None, description="The width of the image in pixels.")
    height: int | None = Field(None, description="The height of the image in pixels.")


class Output(BaseModel):
    """What every answer may say of itself."""

    truncated: bool | None = Field(None, description=TRUNCATED)


class BoundingBoxOutput(Output):
    """The answer of a task that finds rectangles."""

    results: BoundingBoxes = Field(description="Results from the model")
    image: Image | None = Field(None, description="Processed image")


class OCRBoundingBoxOutput(Output):
    """The answer of a task that finds lines of text."""

    results: OCRBoundingBox = Field(description="Results from the model")
    image: Image | None = Field(None, description="Processed image")


class PolygonsOutput(Output):
    """The answer of a task that finds outlines."""

    results: PolygonOutput = Field(description="Results from the model")
    image: Image | None = Field(None, description="Processed image")


class TextOutput(Output):
    """The answer of a task that writes text."""

    results: str = Field(description="Results from the model")
    score: float | None = Field(None, description=SCORE)
