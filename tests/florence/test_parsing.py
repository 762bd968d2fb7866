"""From token ids to boxes and text: nothing that a model can say breaks the parsers."""

import string
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, Florence2Processor

from deployments.florence import parsing
from deployments.florence.parsing import ModelAnswer
from deployments.florence.schemas import BoundingBox, BoundingBoxes, ImageInput
from deployments.florence.tasks import TASKS
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT

VOCABULARY = Vocabulary(DEMO_CHECKPOINT)
LOCATIONS = {bin_: id_ for id_, bin_ in VOCABULARY.bins.items()}
SIZE = (640, 480)
INPUT = ImageInput(image_url="u")

sizes = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))
wide_sizes = st.tuples(st.integers(8, 20_000), st.integers(8, 20_000))  # bins are over 0.001 wide
bins = st.integers(0, parsing.NUM_BINS - 1)
fours = st.tuples(bins, bins, bins, bins)
# Without what ends a special token: "<loc_0>" as text is the location itself.
letters = st.characters(codec="utf-8", exclude_characters=">")
labels = st.text(letters, min_size=1, max_size=20).map(str.strip).filter(bool)


def located(*numbers: int) -> tuple[int, ...]:
    """Location tokens of these bins."""
    return tuple(LOCATIONS[number] for number in numbers)


def said(text: str) -> tuple[int, ...]:
    """The tokens of `text`, without a frame."""
    return tuple(VOCABULARY.encode(text)[1:-1])


def answer(*parts: tuple[int, ...], size: tuple[int, int] = SIZE) -> ModelAnswer:
    """An answer of these tokens."""
    return ModelAnswer(tuple(id_ for part in parts for id_ in part), VOCABULARY, size)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)
@given(ids=st.lists(st.integers(0, len(VOCABULARY._ids) - 1), max_size=60), size=sizes)
def test_any_tokens_can_be_parsed(task: Any, ids: list[int], size: tuple[int, int]) -> None:
    """Whatever the tokens are, every box lies in the image and has no negative side."""
    results = task.parse(ModelAnswer.of(ids, VOCABULARY, size), INPUT)
    if isinstance(results, BoundingBoxes):
        for found in results.bboxes:
            assert 0 <= found.x <= found.x + found.w <= size[0] + 1e-9
            assert 0 <= found.y <= found.y + found.h <= size[1] + 1e-9
            assert found.w >= 0
            assert found.h >= 0
    else:
        assert isinstance(results, str)
        assert "<loc_" not in results


@given(fours=st.lists(fours, max_size=6), size=wide_sizes)
def test_a_box_goes_to_bins_and_back(
    fours: list[tuple[int, int, int, int]], size: tuple[int, int]
) -> None:
    """Each side is the middle of its bin, so a box returns to its own bins, in their order."""
    results = parsing.unlabelled_boxes(answer(*(located(*four) for four in fours), size=size))
    back = [
        tuple(
            int(pixel * parsing.NUM_BINS / side)
            for pixel, side in zip(corners(found), size * 2, strict=True)
        )
        for found in results.bboxes
    ]
    in_order = [(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in fours]
    assert in_order == back
    assert all(found.label == "" for found in results.bboxes)


@given(data=st.data(), size=sizes)
def test_a_box_returns_within_half_a_bin(data: Any, size: tuple[int, int]) -> None:
    """A side in pixels, made a bin and read back, is off by half a bin and a thousandth at most."""
    x, y = (data.draw(st.floats(0, side - 0.001)) for side in size)
    across, down = int(x * parsing.NUM_BINS / size[0]), int(y * parsing.NUM_BINS / size[1])
    tokens = located(across, down, across, down)
    [found] = parsing.unlabelled_boxes(answer(tokens, size=size)).bboxes
    assert abs(found.x - x) <= 0.5 * size[0] / parsing.NUM_BINS + 0.001
    assert abs(found.y - y) <= 0.5 * size[1] / parsing.NUM_BINS + 0.001


@given(whole=st.lists(fours, max_size=3), rest=st.lists(bins, max_size=3))
def test_an_incomplete_group_is_dropped(
    whole: list[tuple[int, int, int, int]], rest: list[int]
) -> None:
    """One to three locations at the end of a run make no box."""
    parts = [located(*four) for four in whole]
    expected = parsing.unlabelled_boxes(answer(*parts))
    assert expected == parsing.unlabelled_boxes(answer(*parts, located(*rest)))


@given(things=st.lists(st.tuples(labels, st.lists(fours, min_size=1, max_size=3)), max_size=4))
def test_labels_are_kept_as_written(
    things: list[tuple[str, list[tuple[int, int, int, int]]]],
) -> None:
    """Each box has the text before its run, in any script; a run of two boxes shares its label."""
    parts = [part for label, run in things for part in (said(label), *(located(*f) for f in run))]
    results = parsing.labelled_boxes(answer(*parts))
    expected = [(label, four) for label, run in things for four in run]
    assert [label for label, _ in expected] == [found.label for found in results.bboxes]


def test_letters_outside_ascii_survive() -> None:
    """The library strips them; we do not."""
    parts = said("café 猫"), located(0, 0, 999, 999), said("Über-Öl"), located(1, 2, 3, 4)
    found = parsing.labelled_boxes(answer(*parts)).bboxes
    assert [box.label for box in found] == ["café 猫", "Über-Öl"]


def test_a_box_without_a_label_is_not_labelled() -> None:
    """Where labels are asked for, a box with none is dropped."""
    parts = located(1, 2, 3, 4), said("red circle"), located(5, 6, 7, 8)
    assert [box.label for box in parsing.labelled_boxes(answer(*parts)).bboxes] == ["red circle"]


def test_a_label_does_not_outlive_an_incomplete_box() -> None:
    """The next box has its own label, not that of a box cut short."""
    parts = said("circle"), located(1, 2), said("square"), located(5, 6, 7, 8)
    assert [box.label for box in parsing.labelled_boxes(answer(*parts)).bboxes] == ["square"]


def test_corners_the_wrong_way_round_are_sorted() -> None:
    """A box that the model wrote from right to left has the same place and a positive size."""
    there = parsing.unlabelled_boxes(answer(located(100, 200, 300, 400)))
    back = parsing.unlabelled_boxes(answer(located(300, 400, 100, 200)))
    assert there == back


def test_pixels_are_fractions() -> None:
    """A coordinate is the middle of its bin, not a whole pixel."""
    [found] = parsing.unlabelled_boxes(answer(located(0, 500, 999, 999))).bboxes
    expected = BoundingBox(x=0.32, y=240.24, w=639.68 - 0.32, h=479.76 - 240.24, label="")
    assert found.model_dump() == pytest.approx(expected.model_dump())


@given(text=labels.filter(lambda text: "<" not in text))  # `<s>` is a token, and no text
def test_text_is_kept_as_written(text: str) -> None:
    """A caption comes out as it went in, whatever its script."""
    assert text == parsing.text(answer(said(text)))


def test_text_leaves_locations_out() -> None:
    """A caption has no location tokens."""
    parts = said("an orange circle"), located(1, 2, 3, 4), said(" and more")
    assert parsing.text(answer(*parts)) == "an orange circle and more"


@cache
def processor() -> Florence2Processor:
    """The library's own processor for the demo checkpoint."""
    loaded = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    assert isinstance(loaded, Florence2Processor)
    return loaded


def corners(found: BoundingBox) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of a box."""
    return found.x, found.y, found.x + found.w, found.y + found.h


def upright(box: list[int]) -> tuple[int, int, int, int]:
    """The library's corners, the smaller ones first."""
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


plain = st.text(string.ascii_letters + " -',.", min_size=1, max_size=12).map(str.strip).filter(bool)
# The library takes one to three locations into the next label: these runs are whole, but the last.
runs = st.lists(bins, min_size=4, max_size=13)
last_runs = st.lists(bins, max_size=7)


@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("marker", ["<OD>", "<DENSE_REGION_CAPTION>", "<REGION_PROPOSAL>"])
@given(
    things=st.lists(st.tuples(plain, runs), max_size=4),
    last=st.tuples(plain, last_runs),
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
)
def test_boxes_are_those_of_the_library(
    marker: str,
    things: list[tuple[str, list[int]]],
    last: tuple[str, list[int]],
    size: tuple[int, int],
) -> None:
    """The library finds the same boxes and labels, but for its truncation to whole pixels."""
    unlabelled = marker == "<REGION_PROPOSAL>"
    task = next(task for task in TASKS.values() if task.marker == marker)
    parts = [
        p
        for text, run in [*things, last]
        for p in (() if unlabelled else said(text), located(*run))
    ]
    tokens = answer(*parts, size=size).tokens
    library = processor().post_process_generation(
        sequence=[0, *tokens, 2], task=marker, image_size=size
    )[marker]
    results = task.parse(answer(tokens, size=size), INPUT)
    assert isinstance(results, BoundingBoxes)
    assert library["labels"] == [found.label for found in results.bboxes]
    for theirs, ours in zip(library["bboxes"], results.bboxes, strict=True):
        for whole, exact in zip(upright(theirs), corners(ours), strict=True):
            assert -2e-3 <= exact - whole < 1 + 2e-3


@settings(max_examples=100, deadline=None)
@given(text=plain)
def test_captions_are_those_of_the_library(text: str) -> None:
    """The library's caption is the same text."""
    sequence = [0, *said(text), 2]
    library = processor().post_process_generation(
        sequence=sequence, task="<CAPTION>", image_size=SIZE
    )
    assert library["<CAPTION>"] == parsing.text(answer(VOCABULARY.trim(sequence)))
