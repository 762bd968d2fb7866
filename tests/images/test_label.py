"""Labels lie inside the picture and beside each other, whatever they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.images import font
from deployments.images.font import lettering
from deployments.images.label import Rectangle, cut, draw_label

SIZE = (300, 200)
SHAPE = Rectangle(100, 80, 160, 120)
side = st.floats(-100, 500, allow_nan=False)


def draw(label: str, shape: Rectangle, *taken: Rectangle) -> Rectangle:
    """Where the label's plate lies on a white picture."""
    return draw_label(Image.new("RGB", SIZE, "white"), label, shape, "navy", taken)


def is_inside(plate: Rectangle) -> bool:
    """Whether all of it lies in the picture."""
    return 0 <= plate.x1 <= plate.x2 < SIZE[0] and 0 <= plate.y1 <= plate.y2 < SIZE[1]


@given(side, side, side, side, st.text(min_size=1, max_size=80))
def test_a_label_lies_inside_the_picture(
    x1: float, y1: float, x2: float, y2: float, label: str
) -> None:
    """Wherever its shape is, and however long it is."""
    assert is_inside(draw(label, Rectangle(x1, y1, x2, y2)))


def test_a_label_stands_above_its_shape_where_there_is_room() -> None:
    """Its plate ends where the shape begins."""
    plate = draw("cat", SHAPE)

    assert (plate.x1, plate.y2) == (SHAPE.x1, SHAPE.y1)


def test_labels_of_one_place_lie_beside_each_other() -> None:
    """Several shapes in the same place have labels that can all be read."""
    plates: list[Rectangle] = []
    for number in range(5):
        plates.append(draw(f"label {number}", SHAPE, *plates))

    assert not any(
        one.overlap(other) for place, one in enumerate(plates) for other in plates[:place]
    )


def test_where_there_is_no_room_a_label_is_drawn_all_the_same() -> None:
    """A full picture is no error."""
    assert is_inside(draw("cat", SHAPE, Rectangle(0, 0, *SIZE)))


def test_a_long_label_is_cut_to_the_picture() -> None:
    """What remains is its beginning, and says that more was there."""
    _, letters = lettering("", 12)
    short = cut("a very long description of something" * 9, letters, 200)

    assert letters.getlength(short) <= 200
    assert short.startswith("a very long")
    assert short.endswith("...")


def test_a_label_is_one_line_without_what_cannot_be_seen() -> None:
    """Line breaks are spaces; controls are left out."""
    assert lettering("two\n lines\x07", 12)[0] == "two lines"


def test_without_a_font_that_has_them_accents_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other letters that no font has are drawn as boxes, one each, and are no error."""
    monkeypatch.setattr(font, "SYSTEM_FONTS", ("no-such-font.ttf",))
    font.fonts.cache_clear()
    try:
        text, letters = lettering("café 東京", 20)
        assert text == "cafe 東京"
        assert bytes(letters.getmask("東")) == bytes(letters.getmask("京"))
    finally:
        font.fonts.cache_clear()


def test_the_font_that_knows_most_letters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label is written in one font, and the built-in one is enough for English."""
    one, other = font.fonts()[0], font.fonts()[0].font_variant(size=17)
    monkeypatch.setattr(font, "fonts", lambda: (one, other))
    monkeypatch.setattr(font, "has", lambda each, letter: each is other or letter.isascii())

    assert lettering("café", 20)[0] == "café"
    assert lettering("cafe", 20)[0] == "cafe"


def test_a_plate_can_be_read_on_any_ground() -> None:
    """The plate's colour and the text's are the same on black and on white."""
    plates = []
    for ground in ("black", "white"):
        picture = Image.new("RGB", SIZE, ground)
        plate = draw_label(picture, "cat", SHAPE, "navy", [])
        plates.append(np.asarray(picture.crop(plate)))

    assert (plates[0] == plates[1]).all()
