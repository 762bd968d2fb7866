"""Overlaps of boxes, and the pairs of true and found ones."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.scenes import Box
from deployments.demo.scoring import ApiBox, box_of, corners_of, iou, match_boxes

lengths = st.floats(0.5, 100)
places = st.floats(-100, 100)
boxes = st.builds(
    lambda x, y, w, h: {"x": x, "y": y, "w": w, "h": h, "label": ""},
    places,
    places,
    lengths,
    lengths,
)
corners = boxes.map(corners_of)
lists = st.lists(boxes, max_size=5)


def a_box(*corners: float) -> ApiBox:
    """A box of four corners."""
    x1, y1, x2, y2 = corners
    return box_of((x1, y1, x2, y2))


@given(one=corners, other=corners)
def test_overlap_is_symmetric_and_a_part(one: Box, other: Box) -> None:
    """Intersection over union is between 0 and 1, and does not depend on the order."""
    assert 0 <= iou(one, other) <= 1 + 1e-9
    assert iou(one, other) == pytest.approx(iou(other, one))


@given(box=corners)
def test_a_box_overlaps_itself_wholly(box: Box) -> None:
    """The same box is a perfect find."""
    assert iou(box, box) == pytest.approx(1)


@given(one=corners, other=corners, x=places, y=places)
def test_overlap_does_not_depend_on_the_place(one: Box, other: Box, x: float, y: float) -> None:
    """Moving both changes nothing."""

    def moved(box: Box) -> Box:
        return box[0] + x, box[1] + y, box[2] + x, box[3] + y

    assert iou(moved(one), moved(other)) == pytest.approx(iou(one, other), abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 2, 1), (1, 0, 3, 1), 1 / 3),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0),
        ((0, 0, 4, 4), (1, 1, 3, 3), 4 / 16),
        ((0, 0, 1, 1), (0, 5, 1, 6), 0),
        ((0, 0, 1, 1), (5, 5, 6, 6), 0),
    ],
)
def test_overlaps_by_hand(one: Any, other: Any, expected: float) -> None:
    """The shared area is counted once."""
    assert expected == pytest.approx(iou(one, other))


@given(truth=lists, found=lists)
def test_each_true_box_has_a_partner_of_its_own(truth: list[ApiBox], found: list[ApiBox]) -> None:
    """Every true box is reported once, in order; no found box counts twice."""
    pairs = match_boxes(truth, found)
    assert truth == [pair.truth for pair in pairs]
    partners = [id(pair.found) for pair in pairs if pair.found is not None]
    assert len(set(partners)) == len(partners)
    for pair in pairs:
        assert pair.iou == (
            0 if pair.found is None else iou(corners_of(pair.truth), corners_of(pair.found))
        )
        assert pair.found is None or pair.iou > 0


@given(truth=lists, found=lists)
def test_no_better_pair_is_left_apart(truth: list[ApiBox], found: list[ApiBox]) -> None:
    """A true and a found box that overlap are paired, unless one has a partner as good."""
    pairs = match_boxes(truth, found)
    taken = {id(pair.found): pair.iou for pair in pairs}
    for pair in pairs:
        for box in found:
            overlap = iou(corners_of(pair.truth), corners_of(box))
            assert overlap <= max(pair.iou, taken.get(id(box), 0))


@given(truth=lists)
def test_the_truth_is_found_whole(truth: list[ApiBox]) -> None:
    """An answer equal to the truth is perfect."""
    pairs = match_boxes(truth, [dict(box) for box in reversed(truth)])
    assert all(pair.iou == pytest.approx(1) for pair in pairs)


def test_the_best_overlap_goes_first() -> None:
    """A found box goes to the true box that it overlaps most."""
    near, far = a_box(0, 0, 10, 10), a_box(2, 0, 12, 10)
    [first, second] = match_boxes([far, near], [a_box(0, 0, 10, 10)])
    assert first.found is None
    assert second.iou == pytest.approx(1)
