"""The table of tasks: right answers score full marks, wrong ones do not."""

import random

import pytest
from PIL import Image

from deployments.demo.scenes import Scene, SceneObject, draw_scene
from deployments.demo.training.tasks import TASKS, TrainingTask, caption, parse_boxes

SCENE = Scene(
    Image.new("RGB", (200, 100)),
    (
        SceneObject("circle", "orange", (20.0, 10.0, 60.0, 50.0)),
        SceneObject("square", "red", (100.0, 40.0, 140.0, 80.0)),
    ),
)


def test_shares_sum_to_one() -> None:
    """The training mix is whole."""
    assert pytest.approx(1.0) == sum(t.share for t in TASKS)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.marker)
def test_own_answers_meet_every_requirement(task: TrainingTask) -> None:
    """The answers that the model is taught would pass the task's own thresholds."""
    rng = random.Random(1)
    scenes = [draw_scene(rng, (640, 480)) for _ in range(20)]
    figures = task.score(scenes, [task.answer(s) for s in scenes])
    assert all(figures[name] >= least for name, least in task.required.items())


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.marker)
def test_empty_answers_score_nothing(task: TrainingTask) -> None:
    """A model that says nothing gets no marks."""
    figures = task.score([SCENE], [""])
    assert all(figures[name] == 0.0 for name in task.required)


def test_answers_are_in_the_words_of_florence() -> None:
    """Labels come before their four locations, objects from left to right."""
    first, second = "<loc_100><loc_100><loc_300><loc_500>", "<loc_500><loc_400><loc_700><loc_800>"
    expected = {
        "<REGION_PROPOSAL>": first + second,
        "<OD>": f"circle{first}square{second}",
        "<DENSE_REGION_CAPTION>": f"orange circle{first}red square{second}",
        "<CAPTION>": "an orange circle and a red square",
    }
    assert expected == {t.marker: t.answer(SCENE) for t in TASKS}


def test_caption_lists_three_objects() -> None:
    """Three objects are joined by one comma and one "and"."""
    third = SceneObject("triangle", "blue", (150.0, 0.0, 190.0, 30.0))
    scene = Scene(SCENE.image, (*SCENE.objects, third))
    assert caption(scene) == "an orange circle, a red square and a blue triangle"


def test_wrong_labels_cost_labels_and_not_boxes() -> None:
    """A right box with a wrong label counts as found and as mislabelled."""
    task = next(t for t in TASKS if t.marker == "<OD>")
    figures = task.score([SCENE], [task.answer(SCENE).replace("circle", "triangle")])
    assert (figures["recall"], figures["right_label"]) == (1.0, 0.5)


def test_surplus_boxes_cost_precision() -> None:
    """A box too many lowers precision and leaves recall."""
    task = next(t for t in TASKS if t.marker == "<REGION_PROPOSAL>")
    answer = task.answer(SCENE) + "<loc_0><loc_900><loc_50><loc_990>"
    figures = task.score([SCENE], [answer])
    assert figures["recall"] == 1.0
    assert figures["precision"] == pytest.approx(2 / 3)


def test_boxes_are_parsed_to_pixels() -> None:
    """Bins become pixels at their centres; an incomplete group is dropped."""
    answer = "red circle<loc_0><loc_499><loc_999><loc_500><loc_7><loc_8>"
    [(label, box)] = parse_boxes(answer, (2000, 1000))
    assert label == "red circle"
    assert box == pytest.approx((1.0, 499.5, 1999.0, 500.5))
