"""An answer is read while it is written."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.florence.answer import Answer
from deployments.florence.partial_parser import Reader
from deployments.florence.request import Partial
from deployments.florence.schemas import BoundingBoxes
from deployments.florence.tasks import TASKS, Task
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT

VOCABULARY = Vocabulary(DEMO_CHECKPOINT)
LOCATIONS = {bin_: id_ for id_, bin_ in VOCABULARY.bins.items()}
START = (VOCABULARY.id("</s>"), VOCABULARY.id("<s>"))
SIZE = (1000, 1000)


def located(*numbers: int) -> tuple[int, ...]:
    """Location tokens of these bins."""
    return tuple(LOCATIONS[number] for number in numbers)


def words(text: str) -> tuple[int, ...]:
    """The tokens of `text`, without a frame."""
    return tuple(VOCABULARY.encode(text)[1:-1])


def read(path: str, answer: tuple[int, ...], lengths: range | None = None) -> list[Any]:
    """What is told of the task's answer, token by token."""
    told: list[Any] = []
    reader = Reader(TASKS[path], VOCABULARY, told.append)
    whole = START + answer
    for length in lengths or range(len(whole) + 1):
        reader.read(Partial(whole[:length], SIZE))
    return told


def test_boxes_are_told_when_they_are_whole() -> None:
    """Each as soon as its fourth side is known, with those before it, in the output's own shape."""
    told = read("region-proposal", located(0, 0, 9, 9, 10, 10, 19, 19, 20))

    assert [len(output["results"]["bboxes"]) for output in told] == [1, 2]
    assert told[0] == {
        "results": {"bboxes": [{"x": 0.5, "y": 0.5, "w": 9.0, "h": 9.0, "label": ""}]},
        "image": None,
    }


def test_a_box_has_its_label_from_the_first() -> None:
    """A label without a box is not told of."""
    told = read("object-detection", words("red circle") + located(0, 0, 9, 9) + words("blue"))

    [output] = told
    assert [box["label"] for box in output["results"]["bboxes"]] == ["red circle"]


def test_text_is_told_as_it_grows() -> None:
    """Each time it is longer, never twice the same."""
    told = [output["results"] for output in read("caption", words("a red circle"))]

    assert told[-1] == "a red circle"
    assert all(later.startswith(earlier) for earlier, later in pairwise(told))
    assert len(set(told)) == len(told) > 1


def test_a_letter_is_told_when_it_is_whole() -> None:
    """Letters outside ASCII take several tokens; half of one is no letter."""
    told = [output["results"] for output in read("caption", words("né 猫"))]

    assert told[-1] == "né 猫"
    assert not any("\ufffd" in text for text in told)


def test_an_answer_that_is_begun_again_is_told_once() -> None:
    """The second writing is told of from where the first ended."""
    answer = located(0, 0, 9, 9, 10, 10, 19, 19)
    reader_told: list[Any] = []
    reader = Reader(TASKS["region-proposal"], VOCABULARY, reader_told.append)
    for length in (4, 4, 8):
        for so_far in range(length + 1):
            reader.read(Partial(answer[:so_far], SIZE))

    assert [len(output["results"]["bboxes"]) for output in reader_told] == [1, 2]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)
@given(ids=st.lists(st.integers(0, len(VOCABULARY._ids) - 1), max_size=40))
def test_what_is_told_begins_the_answer(task: Task, ids: list[int]) -> None:
    """Whatever the tokens are, nothing is told that the whole answer does not begin with."""
    trimmed = VOCABULARY.trim(START + tuple(ids))
    answer = task.parse(Answer(trimmed, VOCABULARY, SIZE))
    for output in read(task.path, tuple(ids)):
        results = task.output.model_validate(output).results  # type: ignore[attr-defined]
        if isinstance(answer, BoundingBoxes):
            assert results.bboxes == answer.bboxes[: len(results)]
        else:
            assert answer.startswith(results)
