"""Draws labelled boxes on a picture, so that people can read them on any background."""

import io
from collections.abc import Iterable
from itertools import cycle
from typing import ClassVar, Protocol

from PIL import Image, ImageDraw, ImageFont

from deployments.images.decode import decode
from deployments.settings import PreprocessSettings

COLOURS = ("#e6194b", "#0b7de3", "#2e9e3f", "#f58231", "#911eb4", "#00a3a3", "#d426c9", "#8a5a12")
HALO = "white"
LARGEST_SIDE = 65_500  # of a JPEG, as libjpeg writes it


class Drawable(Protocol):
    """What can be drawn: a function in `DRAW` knows its kind.

    x, y, w and h are the rectangle around it, in pixels. The label may be empty.
    """

    kind: ClassVar[str]
    x: float
    y: float
    w: float
    h: float
    label: str


def annotated(
    source: bytes, shapes: Iterable[Drawable], limits: PreprocessSettings, quality: int
) -> bytes:
    """The image that is encoded in `source` with these shapes, as a JPEG of this quality.

    Raises:
        InputError: as `decode`.
    """
    return encode(annotate(decode(source, limits), shapes), quality)


def annotate(image: Image.Image, shapes: Iterable[Drawable]) -> Image.Image:
    """A copy of the RGB `image` with each shape in a colour between two white lines."""
    picture = image.copy()
    canvas = ImageDraw.Draw(picture)
    stroke = max(2, round(max(image.size) / 320))
    font = ImageFont.load_default(max(12, round(max(image.size) / 40)))
    for shape, colour in zip(shapes, cycle(COLOURS), strict=False):
        DRAW[shape.kind](canvas, shape, colour, stroke)
        if shape.label:
            tag(canvas, shape, colour, font, image.size)
    return picture


def outline(canvas: ImageDraw.ImageDraw, box: Drawable, colour: str, stroke: int) -> None:
    """The box's edge; a thin white line on each side keeps it apart from what lies under it."""
    corners = (box.x, box.y, box.x + box.w, box.y + box.h)
    halo = max(1, stroke // 2)
    canvas.rectangle(grown(corners, halo), outline=HALO, width=stroke + 2 * halo)
    canvas.rectangle(corners, outline=colour, width=stroke)


DRAW = {"box": outline}  # by kind


def grown(
    corners: tuple[float, float, float, float], by: float
) -> tuple[float, float, float, float]:
    """The rectangle with every side moved outwards by `by` pixels."""
    x1, y1, x2, y2 = corners
    return x1 - by, y1 - by, x2 + by, y2 + by


def tag(
    canvas: ImageDraw.ImageDraw,
    shape: Drawable,
    colour: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """The label in white on the colour: above the shape, or inside where there is no room."""
    left, top, right, bottom = canvas.textbbox((0, 0), shape.label, font=font)
    width, height = right - left + 8, bottom - top + 6
    x = max(0.0, min(shape.x, size[0] - width))
    y = shape.y - height if shape.y >= height else shape.y
    canvas.rectangle((x, y, x + width, y + height), fill=colour, outline=HALO)
    canvas.text((x + 4 - left, y + 3 - top), shape.label, fill="white", font=font)


def encode(picture: Image.Image, quality: int) -> bytes:
    """The picture as JPEG, which for a photograph is many times quicker than PNG, and smaller."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)  # thin lines keep their colour
    return buffer.getvalue()
