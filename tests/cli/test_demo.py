"""The demonstration's arithmetic: overlaps, pairs and the verdict."""

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deployments.cli.demo import Box, Pair, Verdict, box_of, iou, matched, report, written
from deployments.cli.output import make_folder
from deployments.errors import SetupError

lengths = st.floats(0.5, 100)
places = st.floats(-100, 100)
boxes = st.builds(
    lambda x, y, w, h: {"x": x, "y": y, "w": w, "h": h, "label": ""},
    places,
    places,
    lengths,
    lengths,
)
lists = st.lists(boxes, max_size=5)


def a_box(*corners: float) -> Box:
    """A box of four corners."""
    x1, y1, x2, y2 = corners
    return box_of((x1, y1, x2, y2))


@given(one=boxes, other=boxes)
def test_overlap_is_symmetric_and_a_part(one: Box, other: Box) -> None:
    """Intersection over union is between nothing and all, whoever is asked about whom."""
    assert 0 <= iou(one, other) <= 1 + 1e-9
    assert iou(one, other) == pytest.approx(iou(other, one))


@given(box=boxes)
def test_a_box_overlaps_itself_wholly(box: Box) -> None:
    """The same box is a perfect find."""
    assert iou(box, box) == pytest.approx(1)


@given(one=boxes, other=boxes, x=places, y=places)
def test_overlap_does_not_depend_on_the_place(one: Box, other: Box, x: float, y: float) -> None:
    """Moving both changes nothing."""

    def moved(box: Box) -> Box:
        return box | {"x": box["x"] + x, "y": box["y"] + y}

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
    assert expected == pytest.approx(iou(a_box(*one), a_box(*other)))


@given(truth=lists, found=lists)
def test_each_true_box_has_a_partner_of_its_own(truth: list[Box], found: list[Box]) -> None:
    """Every true box is reported once, in order; no found box counts twice."""
    pairs = matched(truth, found)
    assert truth == [pair.truth for pair in pairs]
    partners = [id(pair.found) for pair in pairs if pair.found is not None]
    assert len(set(partners)) == len(partners)
    for pair in pairs:
        assert pair.iou == (0 if pair.found is None else iou(pair.truth, pair.found))
        assert pair.found is None or pair.iou > 0


@given(truth=lists, found=lists)
def test_no_better_pair_is_left_apart(truth: list[Box], found: list[Box]) -> None:
    """A true and a found box that overlap are paired, unless one has a partner as good."""
    pairs = matched(truth, found)
    taken = {id(pair.found): pair.iou for pair in pairs}
    for pair in pairs:
        for box in found:
            assert iou(pair.truth, box) <= max(pair.iou, taken.get(id(box), 0))


@given(truth=lists)
def test_the_truth_is_found_whole(truth: list[Box]) -> None:
    """An answer equal to the truth is perfect."""
    pairs = matched(truth, [dict(box) for box in reversed(truth)])
    assert all(pair.iou == pytest.approx(1) for pair in pairs)


def test_the_best_overlap_goes_first() -> None:
    """A found box goes to the true box that it overlaps most."""
    near, far = a_box(0, 0, 10, 10), a_box(2, 0, 12, 10)
    [first, second] = matched([far, near], [a_box(0, 0, 10, 10)])
    assert first.found is None
    assert second.iou == pytest.approx(1)


@pytest.mark.parametrize(
    ("overlaps", "expected"),
    [([1.0] * 10, 0), ([1.0] * 9 + [0.4], 0), ([1.0] * 8 + [0.4] * 2, 1), ([0.0], 1), ([0.5], 0)],
)
def test_the_exit_code_is_the_verdict(overlaps: list[float], expected: int) -> None:
    """Nine in ten true boxes at half an overlap are enough."""
    console = Console(file=io.StringIO(), width=100)
    box = a_box(0, 0, 1, 1)
    pairs = [Pair(box, box if overlap else None, overlap) for overlap in overlaps]
    assert expected == report(console, [Verdict(pairs)], Path("out"))


def test_what_is_found_where_nothing_is_stands_in_the_table() -> None:
    """A stray box has a row of its own and is counted, but is not the verdict."""
    console = Console(file=io.StringIO(), width=100)
    box = a_box(0, 0, 1, 1)
    code = report(console, [Verdict([Pair(box, box, 1.0)], [a_box(5, 5, 9, 9)])], Path("out"))
    assert isinstance(console.file, io.StringIO)
    assert "1 found where nothing is" in console.file.getvalue()
    assert code == 0


def test_boxes_are_written_for_people() -> None:
    """Whole pixels are enough for a table."""
    assert written(a_box(1, 2, 3.6, 9)) == "1, 2, 3, 7"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """One line says which option to use."""
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="choose another --out"):
        make_folder(tmp_path / "file")
