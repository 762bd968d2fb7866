"""Boxes on a picture can be seen on any background."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.florence.schemas import BoundingBox
from deployments.images.annotate import COLOURS, annotate, annotated, encode
from deployments.settings import PreprocessSettings

SIZE = (200, 150)


def box(x: float, y: float, w: float, h: float, label: str = "") -> BoundingBox:
    """A box in the API's words."""
    return BoundingBox(x=x, y=y, w=w, h=h, label=label)


def luminance(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Brightness of each pixel."""
    return np.asarray(image.convert("L"), float)


@pytest.mark.parametrize("ground", ["white", "black", "grey", *COLOURS])
def test_an_outline_can_be_seen_on_any_ground(ground: str) -> None:
    """Along the edge something differs clearly from what was there."""
    plain = Image.new("RGB", SIZE, ground)
    drawn = annotate(plain, [box(50, 40, 80, 60)])
    changed = np.abs(np.asarray(drawn, int) - np.asarray(plain, int)).max(axis=2) > 60

    assert changed[40:100, 45:56].any(axis=1).all()
    assert not changed[60:80, 70:110].any()


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
