"""A label by its shape: readable on any ground, inside the picture, beside other labels."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from deployments.images.font import Font, lettering

SMALLEST_FONT, LINES = 12, 40  # pixels, and how many lines of text are as high as the picture
MARGIN = 4  # pixels between the text and the edge of its plate
CUT = "..."
INK = "white"


class Rectangle(NamedTuple):
    """Left, top, right and bottom in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float

    def overlap(self, other: "Rectangle") -> float:
        """How many pixels lie in both."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0.0, width) * max(0.0, height)


def draw_label(
    picture: Image.Image, label: str, shape: Rectangle, colour: str, taken: Sequence[Rectangle]
) -> Rectangle:
    """Write the label on a plate of the shape's colour, and return where the plate is.

    It lies where it covers least of the plates that are `taken`.
    """
    canvas = ImageDraw.Draw(picture)
    text, font = lettering(label, max(SMALLEST_FONT, round(max(picture.size) / LINES)))
    text = cut(text, font, picture.width - 2 * MARGIN)
    ascent, descent = font.getmetrics()
    size = font.getlength(text) + 2 * MARGIN, ascent + descent + MARGIN
    places = (inside(place, picture.size) for place in places_by(shape, size))
    plate = min(places, key=lambda place: sum(map(place.overlap, taken)))
    canvas.rectangle(plate, fill=colour, outline=INK)
    canvas.text((plate.x1 + MARGIN, plate.y1 + MARGIN / 2), text, fill=INK, font=font)
    return plate


def cut(text: str, font: Font, width: float) -> str:
    """As much of the text as fits in `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + CUT) > width:
        text = text[: min(len(text) - 1, int(len(text) * width / font.getlength(text + CUT)))]
    return text.rstrip() + CUT


def places_by(shape: Rectangle, size: tuple[float, float]) -> Iterator[Rectangle]:
    """Places of a plate of `size` (width, height) by a shape, the best first."""
    width, height = size
    x1, y1, x2, y2 = shape
    for x, y in (
        (x1, y1 - height),  # above
        (x1, y1),  # at its upper edge
        (x1, y2),  # below
        (x2 - width, y1 - height),
        (x2 - width, y1),
        (x2, y1),  # beside
        (x1 - width, y1),
        (x1, y2 - height),
    ):
        yield Rectangle(x, y, x + width, y + height)


def inside(plate: Rectangle, size: tuple[int, int]) -> Rectangle:
    """The plate moved into a picture of `size` (width, height)."""
    right = max(0.0, min(plate.x1, size[0] - 1 - (plate.x2 - plate.x1))) - plate.x1
    down = max(0.0, min(plate.y1, size[1] - 1 - (plate.y2 - plate.y1))) - plate.y1
    return Rectangle(plate.x1 + right, plate.y1 + down, plate.x2 + right, plate.y2 + down)
