"""An answer is parsed while it is written."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.florence.messages import Partial, PartialOutput
from deployments.florence.parsing import ModelAnswer
from deployments.florence.partial_parser import PartialParser
from deployments.florence.tasks import TASKS, Task
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT
from tests.florence.questions import input_of, shapes_of

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


def parsing(task: Task) -> tuple[list[Any], PartialParser]:
    """A parser, and the list that takes its outputs."""
    outputs: list[Any] = []

    def heard(so_far: PartialOutput) -> None:
        outputs.append(so_far.output)

    return outputs, PartialParser(task, input_of(task), VOCABULARY, heard)


def parse(path: str, answer: tuple[int, ...]) -> list[Any]:
    """The outputs while the task's answer is written, token by token."""
    outputs, parser = parsing(TASKS[path])
    whole = START + answer
    for length in range(len(whole) + 1):
        parser.parse(Partial(whole[:length], SIZE))
    return outputs


def test_boxes_are_given_when_they_are_whole() -> None:
    """Each as soon as its fourth side is known, with those before it, in the output's own shape."""
    outputs = parse("region-proposal", located(0, 0, 9, 9, 10, 10, 19, 19, 20))

    assert [len(output["results"]["bboxes"]) for output in outputs] == [1, 2]
    assert outputs[0] == {
        "results": {"bboxes": [{"x": 0.5, "y": 0.5, "w": 9.0, "h": 9.0, "label": ""}]},
        "image": None,
    }


def test_a_box_has_its_label_from_the_first() -> None:
    """A label without a box is no output."""
    outputs = parse("object-detection", words("red circle") + located(0, 0, 9, 9) + words("blue"))

    [output] = outputs
    assert [box["label"] for box in output["results"]["bboxes"]] == ["red circle"]


def test_text_is_given_as_it_grows() -> None:
    """Each time it is longer, never twice the same."""
    outputs = [output["results"] for output in parse("caption", words("a red circle"))]

    assert outputs[-1] == "a red circle"
    assert all(later.startswith(earlier) for earlier, later in pairwise(outputs))
    assert len(set(outputs)) == len(outputs) > 1


def test_a_letter_is_given_when_it_is_whole() -> None:
    """Letters outside ASCII take several tokens; half of one is no letter."""
    outputs = [output["results"] for output in parse("caption", words("né 猫"))]

    assert outputs[-1] == "né 猫"
    assert not any("\ufffd" in text for text in outputs)


def test_no_answer_ends_with_half_a_letter() -> None:
    """Where the limit of tokens cuts one, the last output is as whole as those before it."""
    cut = ModelAnswer.of(START + words("né 猫")[:-1], VOCABULARY, SIZE, truncated=True)

    assert TASKS["caption"].parse(cut, None) == "né"


def test_an_answer_that_is_begun_again_is_given_once() -> None:
    """The second writing continues where the first ended."""
    answer = located(0, 0, 9, 9, 10, 10, 19, 19)
    outputs, parser = parsing(TASKS["region-proposal"])
    for length in (4, 4, 8):
        for so_far in range(length + 1):
            parser.parse(Partial(answer[:so_far], SIZE))

    assert [len(output["results"]["bboxes"]) for output in outputs] == [1, 2]


def test_a_polygon_is_given_when_it_is_closed() -> None:
    """The model may add a point to the last one until it says that it has ended."""
    first, second = located(0, 0, 9, 0, 9, 9), located(20, 20, 29, 20, 29, 29)
    sep, start, end = ((VOCABULARY.id(mark),) for mark in ("<sep>", "<poly>", "</poly>"))
    outputs = parse("region-to-segmentation", start + first + end + start + second + end)
    assert [len(output["results"]["polygons"]) for output in outputs] == [1, 2]

    outputs = parse("region-to-segmentation", first + sep + second)
    assert [len(output["results"]["polygons"]) for output in outputs] == [1]


def test_a_line_of_text_is_given_with_its_corners() -> None:
    """When the eighth number is known."""
    outputs = parse("ocr-with-region", words("word") + located(0, 0, 9, 0, 9, 9, 0, 9) + words("x"))

    [output] = outputs
    [line] = output["results"]["quad_boxes"]
    assert (line["label"], len(line["points"])) == ("word", 4)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)
@given(ids=st.lists(st.integers(0, len(VOCABULARY._ids) - 1), max_size=40))
def test_outputs_begin_the_answer(task: Task, ids: list[int]) -> None:
    """Whatever the tokens are, the whole answer begins with each output."""
    answer = task.parse(ModelAnswer.of(START + tuple(ids), VOCABULARY, SIZE), input_of(task))
    for output in parse(task.path, tuple(ids)):
        results = task.output.model_validate(output).results  # type: ignore[attr-defined]
        if isinstance(answer, str):
            assert answer.startswith(results)
        else:
            assert shapes_of(results) == shapes_of(answer)[: len(results)]
