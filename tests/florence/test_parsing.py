"""From token ids to shapes and text: nothing that a model can say breaks the parsers."""

import re
import string
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, Florence2Processor

from deployments.florence import parsing
from deployments.florence.parsing import ModelAnswer
from deployments.florence.schemas import (
    BoundingBox,
    OCRBoundingBoxOutput,
    Point,
    PolygonsOutput,
)
from deployments.florence.tasks import TASKS, Task
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT
from tests.florence.questions import input_of, shapes_of

VOCABULARY = Vocabulary(DEMO_CHECKPOINT)
LOCATIONS = {bin_: id_ for id_, bin_ in VOCABULARY.bins.items()}
SIZE = (640, 480)
SEP, POLY, POLY_END = (VOCABULARY.id(mark) for mark in ("<sep>", "<poly>", "</poly>"))

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)

sizes = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))
wide_sizes = st.tuples(st.integers(8, 20_000), st.integers(8, 20_000))  # bins are over 0.001 wide
bins = st.integers(0, parsing.NUM_BINS - 1)
sides = st.tuples(bins, bins).filter(lambda ends: ends[0] != ends[1])
fours = st.tuples(sides, sides).map(lambda both: (both[0][0], both[1][0], both[0][1], both[1][1]))
# Without what ends a special token: "<loc_0>" as text is the location itself.
letters = st.characters(codec="utf-8", exclude_characters=">")
labels = st.text(letters, min_size=1, max_size=20).map(str.strip).filter(bool)


def located(*numbers: int) -> tuple[int, ...]:
    """Location tokens of these bins."""
    return tuple(LOCATIONS[number] for number in numbers)


def said(text: str) -> tuple[int, ...]:
    """The tokens of `text`, without a frame."""
    return tuple(VOCABULARY.encode(text)[1:-1])


def answer(
    *parts: tuple[int, ...], size: tuple[int, int] = SIZE, truncated: bool = False
) -> ModelAnswer:
    """An answer of these tokens."""
    tokens = tuple(id_ for part in parts for id_ in part)
    return ModelAnswer(tokens, VOCABULARY, size, truncated=truncated)


def is_inside(point: Point, size: tuple[int, int]) -> bool:
    """Whether a point lies in an image of this size."""
    return 0 <= point.x <= size[0] and 0 <= point.y <= size[1]


@pytest.mark.slow
@each_task
@given(ids=st.lists(st.integers(0, len(VOCABULARY._ids) - 1), max_size=60), size=sizes)
def test_any_tokens_can_be_parsed(task: Task, ids: list[int], size: tuple[int, int]) -> None:
    """Whatever the tokens are, every shape lies in the image and is one."""
    results = task.parse(ModelAnswer.of(ids, VOCABULARY, size), input_of(task))
    assert isinstance(results, task.results)
    for found in shapes_of(results):
        if hasattr(found, "w"):
            assert 0 <= found.x < found.x + found.w <= size[0] + 1e-9
            assert 0 <= found.y < found.y + found.h <= size[1] + 1e-9
        if hasattr(found, "points"):
            assert len(found.points) >= 3
            assert all(is_inside(point, size) for point in found.points)
    if isinstance(results, str):
        assert VOCABULARY.special_in(VOCABULARY.encode(results)[1:-1]) == set()


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
def test_a_point_returns_within_half_a_bin(data: Any, size: tuple[int, int]) -> None:
    """A place in pixels, made bins and read back, is off by half a bin and a thousandth at most."""
    x, y = (data.draw(st.floats(0, side - 0.001)) for side in size)
    across, down = int(x * parsing.NUM_BINS / size[0]), int(y * parsing.NUM_BINS / size[1])
    tokens = located(across, down, 0, 0, 9, 9)
    [found] = parsing.polygons(answer(tokens, size=size)).polygons
    assert abs(found.points[0].x - x) <= 0.5 * size[0] / parsing.NUM_BINS + 0.001
    assert abs(found.points[0].y - y) <= 0.5 * size[1] / parsing.NUM_BINS + 0.001


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


@pytest.mark.parametrize("path", ["object-detection", "caption-to-phrase-grounding"])
def test_letters_outside_ascii_survive(path: str) -> None:
    """The library strips them; we do not."""
    parts = said("Größe café 東京"), located(0, 0, 999, 999), said("Über-Öl"), located(1, 2, 3, 4)
    found = TASKS[path].parse(answer(*parts), None).bboxes
    assert [box.label for box in found] == ["Größe café 東京", "Über-Öl"]


def test_text_outside_ascii_survives_with_its_place() -> None:
    """Also where the text has corners."""
    [line] = parsing.quads(
        answer(said("Größe café 東京"), located(1, 1, 9, 1, 9, 9, 1, 9))
    ).quad_boxes
    assert line.label == "Größe café 東京"


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


@pytest.mark.parametrize("bins", [(5, 1, 5, 9), (1, 5, 9, 5), (5, 5, 5, 5)])
def test_a_box_without_width_or_height_is_dropped(bins: tuple[int, ...]) -> None:
    """It is counted, and the answer does not say so."""
    results = parsing.unlabelled_boxes(answer(located(*bins), located(1, 2, 3, 4)))
    assert (len(results.bboxes), results.num_dropped) == (1, 1)
    assert "dropped" not in str(results.model_dump())


def test_pixels_are_fractions() -> None:
    """A coordinate is the middle of its bin, not a whole pixel."""
    [found] = parsing.unlabelled_boxes(answer(located(0, 500, 999, 999))).bboxes
    expected = BoundingBox(x=0.32, y=240.24, w=639.68 - 0.32, h=479.76 - 240.24, label="")
    assert found.model_dump() == pytest.approx(expected.model_dump())


@pytest.mark.parametrize("phrase", ["it", "the image", " the image", "someone"])
def test_what_is_no_phrase_is_not_grounded(phrase: str) -> None:
    """Pronouns and the like are not looked for; what else is in the caption is."""
    parts = said(phrase), located(1, 2, 3, 4), said("a dog"), located(5, 6, 7, 8)
    assert [box.label for box in parsing.phrase_boxes(answer(*parts)).bboxes] == ["a dog"]


@pytest.mark.parametrize(
    "corners",
    [
        (100, 100, 300, 100, 300, 200, 100, 200),
        (120, 80, 300, 180, 280, 220, 100, 120),
        (300, 100, 300, 400, 200, 400, 200, 100),
        (300, 200, 100, 200, 100, 100, 300, 100),
    ],
    ids=["upright", "30 degrees", "90 degrees", "180 degrees"],
)
def test_a_turned_line_has_an_upright_box_and_its_corners(corners: tuple[int, ...]) -> None:
    """The box is around all four corners, which keep the order in which they were written."""
    parts = said("word"), located(*corners)
    [line] = parsing.quads(answer(*parts, size=(1000, 1000))).quad_boxes
    xs, ys = corners[::2], corners[1::2]
    assert (line.x, line.y) == (min(xs) + 0.5, min(ys) + 0.5)
    assert (line.w, line.h) == (max(xs) - min(xs), max(ys) - min(ys))
    assert [(point.x, point.y) for point in line.points] == [
        (x + 0.5, y + 0.5) for x, y in zip(xs, ys, strict=True)
    ]


def test_an_incomplete_line_of_text_is_dropped() -> None:
    """Seven locations are no four corners, and their text is not that of the next line."""
    parts = said("one"), located(*range(7)), said("two"), located(1, 1, 9, 1, 9, 9, 1, 9)
    assert [line.label for line in parsing.quads(answer(*parts)).quad_boxes] == ["two"]


def test_each_part_is_a_polygon() -> None:
    """Parts of an instance, and instances, in their order."""
    parts = [
        (POLY, *located(1, 1, 5, 1, 3, 4), SEP, *located(6, 6, 9, 6, 7, 9), POLY_END),
        (POLY, *located(20, 20, 30, 20, 30, 30, 20, 30), POLY_END),
    ]
    found = parsing.polygons(answer(*parts, size=(1000, 1000))).polygons
    assert [[(point.x, point.y) for point in each.points] for each in found] == [
        [(1.5, 1.5), (5.5, 1.5), (3.5, 4.5)],
        [(6.5, 6.5), (9.5, 6.5), (7.5, 9.5)],
        [(20.5, 20.5), (30.5, 20.5), (30.5, 30.5), (20.5, 30.5)],
    ]


@pytest.mark.parametrize("bad", [(1, 1, 5, 5), (1, 1, 5, 1, 3, 4, 2)], ids=["two", "odd"])
def test_what_is_no_polygon_is_dropped(bad: tuple[int, ...]) -> None:
    """Two points are no polygon, and a coordinate too many leaves doubt about all of them."""
    tokens = (*located(*bad), SEP, *located(6, 6, 9, 6, 7, 9))
    results = parsing.polygons(answer(tokens))
    assert (len(results.polygons), results.num_dropped) == (1, 1)


def test_marks_in_the_wrong_order_close_no_instance() -> None:
    """As in the library: only a part between both marks is of an instance."""
    outline = located(1, 1, 9, 1, 9, 9)
    assert parsing.polygons(answer((POLY_END, POLY), outline)).polygons == []
    assert len(parsing.polygons(answer((POLY,), outline)).polygons) == 1


def test_an_unfinished_polygon_is_no_part_of_the_answer() -> None:
    """What the model still writes, or was stopped in, is not returned; what is closed is."""
    first, second = located(1, 1, 5, 1, 3, 4), located(6, 6, 9, 6, 7, 9)
    for tokens, num in (
        (first, 0),
        ((*first, SEP, *second), 1),
        ((POLY, *first), 0),
        ((POLY, *first, POLY_END), 1),
        ((*first, *said("and")), 1),
    ):
        assert len(parsing.polygons(answer(tokens, truncated=True)).polygons) == num
        assert len(parsing.polygons(answer(tokens)).polygons) >= num


def test_polygons_of_a_detection_are_boxes() -> None:
    """One box around all parts of each instance, with the label before them."""
    parts = (
        said("cat"),
        (POLY, *located(100, 100, 200, 100, 150, 300), SEP, *located(400, 50, 500, 50, 450, 90)),
        (POLY_END,),
        said("dog"),
        located(1, 2, 3, 4),
    )
    cat, dog = parsing.boxes_or_polygons(answer(*parts, size=(1000, 1000))).bboxes
    assert (cat.label, cat.x, cat.y, cat.w, cat.h) == ("cat", 100.5, 50.5, 400, 250)
    assert (dog.label, dog.x, dog.y, dog.w, dog.h) == ("dog", 1.5, 2.5, 2, 2)


def test_there_is_no_box_around_half_of_an_instance() -> None:
    """Its next part may lie elsewhere; one that is closed has its box, whatever follows."""
    label, first, second = said("cat"), located(1, 1, 5, 1, 3, 4), located(6, 6, 9, 6, 7, 9)
    for written, num in (
        ((POLY, *first, SEP), 0),
        ((POLY, *first, SEP, *second), 0),
        ((POLY, *first, SEP, *second, POLY_END), 1),
        ((POLY, *first, POLY_END, POLY, *second, SEP), 1),
    ):
        assert len(parsing.boxes_or_polygons(answer(label, written, truncated=True))) == num


@each_task
def test_an_empty_answer_is_empty(task: Task) -> None:
    """Nothing found is no error."""
    assert len(task.parse(answer(), input_of(task))) == 0


@given(text=labels.filter(lambda text: "<" not in text))  # `<s>` is a token, and no text
def test_text_is_kept_as_written(text: str) -> None:
    """A caption comes out as it went in, whatever its script."""
    assert text == parsing.text(answer(said(text)))


def test_text_leaves_special_tokens_out() -> None:
    """What they have parted stays apart, and nothing else is."""
    parts = said("an orange circle"), located(1, 2, 3, 4), said(" and more"), (SEP,)
    assert parsing.text(answer(*parts, said("words"), (SEP,), said("."))) == (
        "an orange circle and more words."
    )


@pytest.mark.parametrize(
    ("before", "after", "whole"),
    [
        ("a dog.", "The cat", "a dog. The cat"),
        ("circle,", "and", "circle, and"),
        ("a circle", ", red", "a circle, red"),
        ("x <", "loc_5>", "x < loc_5>"),
        ("x <", "/s>", "x < /s>"),
        ("a ", "circle", "a circle"),
    ],
)
def test_what_a_special_token_has_parted_stays_apart(before: str, after: str, whole: str) -> None:
    """No two words become one, and no two ends a special token."""
    assert parsing.text(answer(said(before), located(1), said(after))) == whole
    assert parsing.text(answer(said(before), (SEP,), located(2, 3), said(after))) == whole


@cache
def processor() -> Florence2Processor:
    """The library's own processor, with the demo checkpoint's tokens and the family's phrases."""
    loaded = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    assert isinstance(loaded, Florence2Processor)
    loaded.post_processor.banned_grounding_tokens = set(parsing.NO_PHRASES)
    return loaded


def corners(found: BoundingBox) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of a box."""
    return found.x, found.y, found.x + found.w, found.y + found.h


# A letter of ASCII in each: the library strips the others, and might leave no label.
words = st.text(string.ascii_letters + " -',.é東", max_size=12).map(lambda text: said(f"w{text}"))
even_runs = st.lists(bins, min_size=1, max_size=6).map(lambda run: located(*run, *run))
runs = st.lists(bins, min_size=1, max_size=13).map(lambda run: located(*run))
quads = st.lists(bins, min_size=8, max_size=9).map(lambda run: located(*run))
marks = st.sampled_from([(SEP,), (POLY,), (POLY_END,)])
phrases = st.sampled_from(["it", "the image", "a dog"]).map(said)
instances = st.lists(even_runs, min_size=1, max_size=3).map(
    lambda parts: (POLY, *[id_ for part in parts for id_ in (SEP, *part)][1:], POLY_END)
)
labelled_instances = st.lists(st.tuples(words, instances).map(lambda both: both[0] + both[1]))
whole_runs = st.lists(fours, min_size=1, max_size=2).map(lambda run: located(*sum(run, ())))
items = st.tuples(words | phrases, whole_runs | quads).map(lambda both: both[0] + both[1])
unmarked = st.lists(items | items | words | runs | whole_runs | phrases, max_size=8)
anything = st.lists(items | items | words | runs | whole_runs | phrases | marks, max_size=8)
outlines = st.lists(words | even_runs | marks | instances, max_size=8)
DRAWN_BY = {
    "open-vocabulary-detection": unmarked | labelled_instances,
    "referring-expression-segmentation": outlines,
    "region-to-segmentation": outlines,
}


@pytest.mark.slow
@settings(max_examples=60)
@each_task
@given(data=st.data(), size=st.tuples(st.integers(8, 4000), st.integers(8, 4000)))
def test_answers_are_those_of_the_library(task: Task, data: Any, size: tuple[int, int]) -> None:
    """But for the documented differences, each parser finds what the library finds, in its order.

    At 1000 by 1000 pixels the library's whole numbers are the bins themselves.
    """
    tokens = answer(*data.draw(DRAWN_BY.get(task.path, anything))).tokens
    results = task.parse(answer(tokens, size=size), input_of(task))
    if isinstance(results, str):
        assert letters_of(results) == letters_of(unmarked_text(library(task, tokens, size)))
        return
    in_bins, in_pixels = (items_of(task, library(task, tokens, s)) for s in ((1000, 1000), size))
    kept = [n for n, (label, bins) in enumerate(in_bins) if is_kept(task, label, bins)]
    ours = shapes_of(results)
    assert [ascii_of(found.label) for found in ours] == [in_bins[n][0] for n in kept]
    for found, n in zip(ours, kept, strict=True):
        whole = in_pixels[n][1]
        exact = numbers_of(found) if len(whole) == len(numbers_of(found)) else list(corners(found))
        for our_number, their_number in zip(exact, whole, strict=True):
            assert -2e-3 <= our_number - their_number < 1 + 2e-3


def library(task: Task, tokens: tuple[int, ...], size: tuple[int, int]) -> Any:
    """What the library makes of these tokens."""
    tokenizer = processor().tokenizer
    written = tokenizer.decode([0, *tokens, 2], clean_up_tokenization_spaces=False)
    found = processor().post_process_generation(text=written, task=task.marker, image_size=size)
    return found[task.marker]


def items_of(task: Task, found: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """The library's items one by one: labels, and the numbers that ours have.

    It reads text: what it has cut a special token to stays in a label, and is taken off here.
    """
    if task.output is OCRBoundingBoxOutput:
        pairs = zip(found["labels"], found["quad_boxes"], strict=True)
        return [(cleaned(label), quad) for label, quad in pairs]
    if task.output is PolygonsOutput:
        return [("", part) for instance in found["polygons"] for part in instance]
    labels = found["bboxes_labels" if "bboxes_labels" in found else "labels"]
    boxes = zip(labels, found["bboxes"], strict=True)
    items = [(cleaned(label), upright(box)) for label, box in boxes]
    instances = zip(found.get("polygons_labels", ()), found.get("polygons", ()), strict=True)
    return items + [
        (cleaned(label), upright([number for part in parts for number in part]))
        for label, parts in instances
        if any(parts)
    ]


def is_kept(task: Task, label: str, bins: list[int]) -> bool:
    """Whether an item of the library is one of ours: the differences that are documented."""
    if task.output is PolygonsOutput:
        return len(bins) >= 6
    if task.parse is not parsing.unlabelled_boxes and not label:
        return False
    if task.parse is parsing.phrase_boxes and label in parsing.NO_PHRASES:
        return False
    return min(max(bins[::2]) - min(bins[::2]), max(bins[1::2]) - min(bins[1::2])) > 0


def numbers_of(found: Any) -> list[float]:
    """The coordinates of a shape's points; of a box those of two corners."""
    points = getattr(found, "points", None)
    if points is None:
        return list(corners(found))
    return [number for point in points for number in (point.x, point.y)]


def upright(numbers: list[int]) -> list[int]:
    """The box around points, whose coordinates come in turn."""
    xs, ys = numbers[::2], numbers[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]


def cleaned(label: str) -> str:
    return ascii_of(re.sub(r"^.*>", "", label))


def ascii_of(label: str) -> str:
    return label.encode("ascii", "ignore").decode("ascii").strip()


def unmarked_text(written: str) -> str:
    return re.sub(r"<[^<>\s]+>", "", written)


def letters_of(written: str) -> str:
    return "".join(written.split())


@each_task
def test_regions_and_texts_are_asked_as_the_library_asks(task: Task) -> None:
    """The prompt is the one that the library's processor makes of the same words."""
    given = input_of(task)
    words = task.words(given, SIZE)
    [expected] = processor()._construct_prompts(f"{task.marker}{words}")
    assert expected == task.prompt(given, SIZE)
