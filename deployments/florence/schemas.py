"""What the endpoints take and return, in fal's words.

Names, fields and descriptions follow fal's published types for `fal-ai/florence-2-large/*`.
Lengths are pixels of the input image as a person sees it, after its EXIF rotation.
"""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

IMAGE_URL = "The URL of the image to be processed: http(s), or a base64 data URI."
NUM_BEAMS = (
    "How many answers the search follows side by side: 1 is greedy, the fastest. "
    "At most, and by default, the service's own number. An extension of fal's schema."
)


def offered(num_beams: int, info: ValidationInfo) -> int:
    """`num_beams`, when it is no more than the validation's context allows."""
    most = (info.context or {}).get("num_beams", num_beams)
    if num_beams > most:
        raise PydanticCustomError(
            "less_than_equal",
            "Input should be less than or equal to {le}, the number of beams of this deployment",
            {"le": most},
        )
    return num_beams


class ImageInput(BaseModel):
    """The input of a task that needs nothing but an image; unknown fields are ignored."""

    model_config = ConfigDict(strict=True)

    image_url: Annotated[str, Field(min_length=1, description=IMAGE_URL)]
    num_beams: Annotated[int, Field(ge=1), AfterValidator(offered)] | None = Field(
        None, description=NUM_BEAMS
    )


class BoundingBox(BaseModel):
    """A rectangle: its upper left corner, its size and what it shows."""

    kind: ClassVar[str] = "box"  # how it is drawn

    x: float = Field(description="X-coordinate of the top-left corner")
    y: float = Field(description="Y-coordinate of the top-left corner")
    w: float = Field(description="Width of the bounding box")
    h: float = Field(description="Height of the bounding box")
    label: str = Field(description="Label of the bounding box")


class BoundingBoxes(BaseModel):
    """All rectangles that were found, in the model's order."""

    bboxes: list[BoundingBox] = Field(description="List of bounding boxes")

    def __len__(self) -> int:
        return len(self.bboxes)


class Image(BaseModel):
    """A picture that can be downloaded without a key until it expires."""

    url: str = Field(description="The URL where the file can be downloaded from.")
    content_type: str | None = Field(None, description="The mime type of the file.")
    file_name: str | None = Field(None, description="The name of the file.")
    file_size: int | None = Field(None, description="The size of the file in bytes.")
    width: int | None = Field(None, description="The width of the image in pixels.")
    height: int | None = Field(None, description="The height of the image in pixels.")


class BoundingBoxOutput(BaseModel):
    """The answer of a task that finds rectangles."""

    results: BoundingBoxes = Field(description="Results from the model")
    image: Image | None = Field(None, description="Processed image")


class TextOutput(BaseModel):
    """The answer of a task that writes text."""

    results: str = Field(description="Results from the model")
