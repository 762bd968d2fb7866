"""Shapes on a picture can be seen, and their labels read, on any background."""

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageColor

from deployments.florence.schemas import BoundingBox
from deployments.images.annotate import COLOURS, annotate, annotated, encode
from deployments.settings import PreprocessSettings

SIZE = (200, 150)


@dataclass
class Point:
    """A corner in pixels."""

    x: float
    y: float


@dataclass
class Quad:
    """Turned text in the API's words, as far as it is drawn."""

    kind: ClassVar[str] = "quad"
    points: list[Point]
    label: str = ""


@dataclass
class Polygon:
    """One part of a mask."""

    kind: ClassVar[str] = "polygon"
    points: list[Point]
    label: str = ""


def box(x: float, y: float, w: float, h: float, label: str = "") -> BoundingBox:
    """A box in the API's words."""
    return BoundingBox(x=x, y=y, w=w, h=h, label=label)


def ring(*corners: tuple[float, float]) -> list[Point]:
    """Corners in the API's words."""
    return [Point(x, y) for x, y in corners]


DIAMOND = ring((100, 20), (160, 75), (100, 130), (40, 75))


def changed(plain: Image.Image, drawn: Image.Image) -> NDArray[np.int64]:
    """By how much each pixel differs, in the colour where it differs most."""
    before, after = np.asarray(plain, int), np.asarray(drawn, int)
    differences: NDArray[np.int64] = np.abs(after - before).max(axis=2)
    return differences


def luminance(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Brightness of each pixel."""
    return np.asarray(image.convert("L"), float)


@pytest.mark.parametrize("ground", ["white", "black", "grey", *COLOURS])
def test_an_outline_can_be_seen_on_any_ground(ground: str) -> None:
    """Along the edge something differs clearly from what was there."""
    plain = Image.new("RGB", SIZE, ground)
    drawn = annotate(plain, [box(50, 40, 80, 60)])
    differs = changed(plain, drawn) > 60

    assert differs[40:100, 45:56].any(axis=1).all()
    assert not differs[60:80, 70:110].any()


@pytest.mark.parametrize("ground", ["white", "black", "grey", *COLOURS])
@pytest.mark.parametrize("shape", [Quad, Polygon])
def test_slanted_edges_can_be_seen_on_any_ground(ground: str, shape: type[Quad | Polygon]) -> None:
    """All along a ring something differs clearly from what was there."""
    plain = Image.new("RGB", SIZE, ground)
    differs = changed(plain, annotate(plain, [shape(DIAMOND)])) > 60

    for part in np.linspace(0, 1, 20):
        x, y = round(100 + 60 * part), round(20 + 55 * part)
        assert differs[y - 3 : y + 4, x - 3 : x + 4].any()


def test_a_quad_is_drawn_as_it_lies() -> None:
    """Nothing stands in the corners of the rectangle around it, and nothing inside."""
    plain = Image.new("RGB", SIZE, "white")
    differs = changed(plain, annotate(plain, [Quad(DIAMOND)]))

    assert not differs[15:35, 30:70].any()
    assert not differs[65:85, 90:110].any()


@pytest.mark.parametrize("ground", ["white", "black", "grey"])
def test_a_polygon_is_filled_and_what_lies_under_it_is_seen(ground: str) -> None:
    """Inside, the ground is tinted evenly; a line on it can still be made out."""
    plain = Image.new("RGB", SIZE, ground)
    plain.putpixel((100, 75), (0, 255, 0))
    drawn = np.asarray(annotate(plain, [Polygon(DIAMOND)]), int)

    assert (drawn[70:80, 90:100] == drawn[70, 90]).all()
    assert np.abs(drawn[70, 90] - np.asarray(plain, int)[70, 90]).max() > 30
    assert np.abs(drawn[75, 100] - drawn[70, 90]).max() > 60


def test_no_fill_covers_an_outline() -> None:
    """The edge of the first polygon looks the same below the second."""
    plain = Image.new("RGB", SIZE, "grey")
    small = Polygon(ring((80, 60), (120, 60), (120, 90), (80, 90)))
    alone = annotate(plain, [small])
    below = annotate(plain, [small, Polygon(DIAMOND)])

    assert alone.getpixel((100, 60)) == below.getpixel((100, 60))


corner = st.floats(-300, 500, allow_nan=False)


@settings(max_examples=25)
@given(st.lists(st.builds(Point, corner, corner), min_size=3, max_size=9), st.text(max_size=30))
def test_any_ring_can_be_drawn(points: list[Point], label: str) -> None:
    """Rings that cross themselves, have no area or lie outside are no error."""
    for shape in (Quad(points, label), Polygon(points, label)):
        assert annotate(Image.new("RGB", SIZE), [shape]).size == SIZE


@pytest.mark.parametrize("side", [100, 800, 2000])
def test_a_ring_is_where_it_is_said_to_be_at_any_size(side: int) -> None:
    """Smoothing small pictures moves nothing."""
    plain = Image.new("RGB", (side, side), "white")
    points = ring(
        *((side * x, side * y) for x, y in ((0.5, 0.2), (0.8, 0.5), (0.5, 0.8), (0.2, 0.5)))
    )
    ys, xs = np.nonzero(changed(plain, annotate(plain, [Polygon(points)])) > 20)

    for found, wanted in zip((xs.min(), xs.max(), ys.min(), ys.max()), (0.2, 0.8) * 2, strict=True):
        assert found == pytest.approx(wanted * side, abs=max(3.0, side / 150))


def test_the_image_given_is_left_alone() -> None:
    """Drawing happens on a copy."""
    plain = Image.new("RGB", SIZE, "white")
    annotate(plain, [box(10, 10, 50, 50, "cat")])

    assert plain.getextrema() == ((255, 255), (255, 255), (255, 255))


def test_a_label_stands_by_its_box() -> None:
    """A label adds a tag above the box, or inside it at the top edge."""
    plain = Image.new("RGB", SIZE, "white")
    for y, rows in ((60, slice(40, 60)), (0, slice(4, 14))):
        without = annotate(plain, [box(50, y, 80, 60)])
        labelled = annotate(plain, [box(50, y, 80, 60, "a red circle")])
        assert (luminance(without) != luminance(labelled))[rows].any()


@pytest.mark.parametrize("colour", COLOURS)
def test_white_text_can_be_read_on_each_colour(colour: str) -> None:
    """The contrast is 4.5 at least, which WCAG 2 asks of text."""
    levels = np.asarray(ImageColor.getrgb(colour)) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)

    assert 1.05 / (0.05 + linear @ (0.2126, 0.7152, 0.0722)) >= 4.5


def test_an_empty_label_has_no_plate() -> None:
    """Region proposals are outlines alone."""
    plain = Image.new("RGB", SIZE, "white")

    assert annotate(plain, [box(50, 40, 80, 60)]) == annotate(plain, [box(50, 40, 80, 60, " ")])


sides = st.floats(0, 300, allow_nan=False)


@given(sides, sides, sides, sides, st.text(max_size=30))
def test_any_box_and_label_can_be_drawn(x: float, y: float, w: float, h: float, label: str) -> None:
    """No place, size or text makes drawing fail or change the picture's size."""
    assert annotate(Image.new("RGB", SIZE), [box(x, y, w, h, label)]).size == SIZE


def test_a_picture_of_one_pixel_row_can_be_drawn_on() -> None:
    """Extreme sizes are drawn on as well."""
    assert annotate(Image.new("RGB", (400, 2)), [box(0, 0, 400, 2, "line")]).size == (400, 2)


def test_encoding_keeps_size_and_colours() -> None:
    """The JPEG has the picture's size, and thin lines keep their colour."""
    drawn = annotate(Image.new("RGB", SIZE, "white"), [box(50, 40, 80, 60)])
    with Image.open(io.BytesIO(encode(drawn, 90))) as back:
        difference = np.abs(np.asarray(back, int) - np.asarray(drawn, int))
        assert (back.format, back.size) == ("JPEG", SIZE)
        assert difference.mean() < 3


def test_an_encoded_image_is_annotated_as_a_jpeg() -> None:
    """It is decoded within the limits, drawn on, and encoded."""
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, "white").save(buffer, "PNG")
    jpeg = annotated(buffer.getvalue(), [box(50, 40, 80, 60)], PreprocessSettings(), 90)
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", SIZE)
        assert picture.getextrema() != ((255, 255),) * 3
