"""Draws labelled shapes on a picture, so that people can read them on any background."""

import io
from collections.abc import Iterable
from itertools import cycle
from typing import Any, ClassVar, Protocol

from PIL import Image, ImageColor, ImageDraw

from deployments.images.decode import decode
from deployments.images.label import Rectangle, draw_label
from deployments.settings import PreprocessSettings

# White text can be read on each: a contrast of 4.5 at least, as WCAG 2 counts.
COLOURS = ("#d7143c", "#0a6cc8", "#1e7d32", "#b85400", "#8a1fb0", "#007a80", "#c0189f", "#7a4f10")
HALO = "white"
FILL_ALPHA = 90  # of 255: what lies under it can still be seen
LARGEST_SIDE = 65_500  # of a JPEG, as libjpeg writes it
# A slanted line is drawn larger and reduced, within so many pixels, which takes milliseconds;
# what is too large for that is so fine that nobody sees its steps.
SMOOTH_PIXELS = 2_000_000
SCALES = (4, 2)

Ring = list[tuple[float, float]]  # corners in pixels; the last is joined to the first


class Drawable(Protocol):
    """What can be drawn: `RINGS` knows its kind. The label may be empty."""

    kind: ClassVar[str]
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
    """A copy of the RGB `image` with each shape in a colour between two white lines.

    Fills come first and labels last, so that nothing that can be read is covered.
    """
    picture = image.copy()
    stroke = max(2, round(max(image.size) / 320))
    drawn = [
        (shape, RINGS[shape.kind](shape), colour)
        for shape, colour in zip(shapes, cycle(COLOURS), strict=False)
    ]
    for shape, ring, colour in drawn:
        if shape.kind in FILLED:
            fill(picture, ring, colour)
    for shape, ring, colour in drawn:
        outline(picture, shape.kind, ring, colour, stroke)
    plates: list[Rectangle] = []
    for shape, ring, colour in drawn:
        if shape.label.strip():
            plates.append(draw_label(picture, shape.label, around(ring), colour, plates))
    return picture


def corners(box: Any) -> Ring:
    left, top, right, bottom = box.x, box.y, box.x + box.w, box.y + box.h
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def points(shape: Any) -> Ring:
    return [(point.x, point.y) for point in shape.points]


RINGS = {"box": corners, "quad": points, "polygon": points}  # by kind
FILLED = {"polygon"}


def fill(picture: Image.Image, ring: Ring, colour: str) -> None:
    """Lay a translucent colour inside the ring; it costs what lies inside, not the picture."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    ImageDraw.Draw(picture, "RGBA").polygon(ring, fill=(red, green, blue, FILL_ALPHA))


def outline(picture: Image.Image, kind: str, ring: Ring, colour: str, stroke: int) -> None:
    """The ring's edge; a thin white line on each side keeps it apart from what lies under it."""
    edge = rectangle if kind == "box" else slanted
    edge(picture, ring, HALO, stroke + 2 * max(1, stroke // 2))
    edge(picture, ring, colour, stroke)


def rectangle(picture: Image.Image, ring: Ring, colour: str, width: int) -> None:
    ImageDraw.Draw(picture).rectangle(grown(around(ring), width / 2), outline=colour, width=width)


def slanted(picture: Image.Image, ring: Ring, colour: str, width: int) -> None:
    """A line along the ring, without visible steps in a small picture."""
    left, top, right, bottom = grown(around(ring), width)
    x, y = max(0, int(left)), max(0, int(top))
    w = min(picture.width, int(right) + 1) - x
    h = min(picture.height, int(bottom) + 1) - y
    scale = next((scale for scale in SCALES if w * h * scale**2 <= SMOOTH_PIXELS), 1)
    if w <= 0 or h <= 0:
        return
    if scale == 1:
        line(ImageDraw.Draw(picture), ring, colour, width)
        return
    mask = Image.new("L", (w * scale, h * scale))
    line(
        ImageDraw.Draw(mask),
        [((px - x) * scale, (py - y) * scale) for px, py in ring],
        255,
        width * scale,
    )
    picture.paste(ImageColor.getrgb(colour), (x, y), mask.reduce(scale))


def line(canvas: ImageDraw.ImageDraw, ring: Ring, ink: str | int, width: int) -> None:
    canvas.line([*ring, *ring[:2]], fill=ink, width=width, joint="curve")


def around(ring: Ring) -> Rectangle:
    xs, ys = zip(*ring, strict=True)
    return Rectangle(min(xs), min(ys), max(xs), max(ys))


def grown(edge: Rectangle, by: float) -> Rectangle:
    """The rectangle with every side moved outwards by `by` pixels."""
    return Rectangle(edge.x1 - by, edge.y1 - by, edge.x2 + by, edge.y2 + by)


def encode(picture: Image.Image, quality: int) -> bytes:
    """The picture as JPEG, which for a photograph is many times quicker than PNG, and smaller."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)  # thin lines keep their colour
    return buffer.getvalue()
