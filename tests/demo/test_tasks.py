"""The table of tasks: right answers score full marks, wrong ones do not."""

import random
import re

import pytest
from PIL import Image

from deployments.demo.scenes import Scene, SceneObject, SceneWord, draw_mixed_scene
from deployments.demo.training.evaluation import unseen_scenes
from deployments.demo.training.scores import Scored, parse_boxes, parse_polygons, parse_quads
from deployments.demo.training.tasks import TASKS, Example, TrainingTask
from deployments.demo.training.tokenizer import build_tokenizer

BY_MARKER = {task.marker: task for task in TASKS}
QUAD = ((20.0, 60.0), (80.0, 60.0), (80.0, 80.0), (20.0, 80.0))
SCENE = Scene(
    Image.new("RGB", (200, 100)),
    (
        SceneObject("circle", "orange", (10.0, 10.0, 50.0, 50.0)),
        SceneObject("square", "red", (100.0, 40.0, 140.0, 80.0)),
        SceneObject("square", "red", (150.0, 40.0, 190.0, 80.0)),
    ),
    (SceneWord("HI", "blue", (20.0, 60.0, 80.0, 80.0), QUAD, ()),),
)
EMPTY = Scene(Image.new("RGB", (200, 100)), ())
CIRCLE = "<loc_50><loc_100><loc_250><loc_500>"
WORD = "<loc_100><loc_600><loc_400><loc_800>"
FIRST = "<loc_500><loc_400><loc_700><loc_800>"
SECOND = "<loc_750><loc_400><loc_950><loc_800>"


def ask(marker: str, scene: Scene = SCENE, seed: int = 1) -> Example:
    return BY_MARKER[marker].ask(random.Random(seed), scene)


def asked(marker: str, words: str) -> Example:
    """The question of these words, which comes up sooner or later."""
    questions = (ask(marker, seed=seed) for seed in range(20_000))
    return next(question for question in questions if question.words == words)


def test_all_fourteen_tasks_are_learned() -> None:
    """The training mix has each of fal's endpoints once."""
    assert len(BY_MARKER) == len(TASKS) == 14
    assert all(task.share > 0 for task in TASKS)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.marker)
def test_own_answers_meet_every_requirement(task: TrainingTask) -> None:
    """The answers that the model is taught would pass the task's own thresholds."""
    rng = random.Random(1)
    questions = [task.ask(rng, scene) for scene in unseen_scenes(40)]
    figures = task.score([Scored(q.answer, q.answer) for q in questions])
    assert all(figures[name] >= least for name, least in task.required.items())


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.marker)
def test_empty_answers_score_nothing(task: TrainingTask) -> None:
    """A model that says nothing gets no marks for what is there."""
    questions = (task.ask(random.Random(seed), SCENE) for seed in range(99))
    question = next(q for q in questions if q.answer)
    figures = task.score([Scored(question.answer, "")])
    assert not any(figures.get(name, 0.0) for name in task.required if name != "precision")


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.marker)
def test_no_answer_repeats_three_tokens(task: TrainingTask) -> None:
    """The family's generation settings forbid it, so answers may need it by coincidence alone."""
    rng, tokenizer = random.Random(2), build_tokenizer()
    repeating = []
    for _ in range(60):
        answer = task.ask(rng, draw_mixed_scene(rng, (240, 240))).answer
        ids = tokenizer(f"<s>{answer}</s>", add_special_tokens=False).input_ids
        threes = list(zip(ids, ids[1:], ids[2:], strict=False))
        repeating += [answer] * (len(set(threes)) < len(threes))
    assert len(repeating) <= 1, repeating


def test_located_answers_are_in_the_words_of_florence() -> None:
    """Labels come before their four locations, things from left to right."""
    assert ask("<REGION_PROPOSAL>").answer == CIRCLE + WORD + FIRST + SECOND
    assert ask("<OD>").answer == f"circle{CIRCLE}word{WORD}square{FIRST}square{SECOND}"
    dense = f"orange circle{CIRCLE}blue word{WORD}red square{FIRST}red square{SECOND}"
    assert ask("<DENSE_REGION_CAPTION>").answer == dense


def test_captions_have_three_lengths() -> None:
    """Counts, then colours from left to right, then both."""
    assert ask("<CAPTION>").answer == "a circle, a word and two squares"
    detailed = "From left to right: orange circle, blue word and two red squares."
    assert ask("<DETAILED_CAPTION>").answer == detailed
    more = f"The picture shows three shapes and one word. {detailed}"
    assert ask("<MORE_DETAILED_CAPTION>").answer == more
    assert ask("<CAPTION>", EMPTY).answer == "an empty picture"


def test_phrases_are_answered_by_all_that_they_fit() -> None:
    """An answer repeats the phrase as it was written; what is absent is left out."""
    answer = asked("<CAPTION_TO_PHRASE_GROUNDING>", "red squares").answer
    assert answer == f"red squares{FIRST}{SECOND}"
    assert asked("<OPEN_VOCABULARY_DETECTION>", "giraffe").answer == ""
    both = asked("<CAPTION_TO_PHRASE_GROUNDING>", "circle <and> red squares").answer
    assert both == f"circle{CIRCLE}red squares{FIRST}{SECOND}"


def test_masks_have_a_part_for_each_thing() -> None:
    """Two red squares are two polygons of four points."""
    answer = asked("<REFERRING_EXPRESSION_SEGMENTATION>", "red squares").answer
    assert [len(polygon) for polygon in parse_polygons(answer)] == [4, 4]


def test_reading_gives_text_and_corners() -> None:
    """The quad goes round the word from its top left."""
    assert ask("<OCR>").answer == "HI"
    [(text, quad)] = parse_quads(ask("<OCR_WITH_REGION>").answer)
    assert text == "HI"
    assert quad[0] == pytest.approx((0.1005, 0.6005))
    assert len(quad) == 4


def test_regions_are_named_by_what_they_hold() -> None:
    """A region is four locations; one that holds nothing is background."""
    for marker in ("<REGION_TO_CATEGORY>", "<REGION_TO_DESCRIPTION>", "<REGION_TO_SEGMENTATION>"):
        assert re.fullmatch(r"(<loc_\d+>){4}", ask(marker).words)
        assert ask(marker, EMPTY).answer in ("background", "")


def test_wrong_labels_cost_labels_and_not_boxes() -> None:
    """A right box with a wrong label counts as found and as mislabelled."""
    right = ask("<OD>").answer
    figures = BY_MARKER["<OD>"].score([Scored(right, right.replace("circle", "triangle"))])
    assert (figures["recall"], figures["right_label"]) == (1.0, 0.75)


def test_surplus_boxes_cost_precision() -> None:
    """A box too many lowers precision and leaves recall."""
    right = ask("<REGION_PROPOSAL>").answer
    given = right + "<loc_0><loc_900><loc_50><loc_990>"
    figures = BY_MARKER["<REGION_PROPOSAL>"].score([Scored(right, given)])
    assert (figures["recall"], figures["precision"]) == (1.0, 0.8)


def test_a_false_promise_costs_the_absent_figure() -> None:
    """A box for a phrase that is not there is counted."""
    task = BY_MARKER["<OPEN_VOCABULARY_DETECTION>"]
    figures = task.score([Scored("", f"giraffe{CIRCLE}"), Scored("", "")])
    assert figures["absent"] == 0.5


def test_boxes_are_parsed_to_parts_of_the_sides() -> None:
    """Bins are their centres; a label counts for all its boxes; an incomplete group is dropped."""
    found = parse_boxes(f"red circle<loc_0><loc_499><loc_999><loc_500>{FIRST}<loc_7><loc_8>")
    assert [label for label, _ in found] == ["red circle", "red circle"]
    assert found[0][1] == pytest.approx((0.0005, 0.4995, 0.9995, 0.5005))
