"""Drawn pictures that other servers of the family answer wrongly: the demo is asked about each."""

import random
from functools import cache
from typing import Any

import pytest
from PIL import Image, ImageDraw

from deployments.demo.scenes import COLOURS, draw_background, draw_texture
from deployments.demo.scoring import iou
from deployments.demo.training.scores import mask_iou
from deployments.demo.words import draw_word
from deployments.florence.model import Model
from deployments.florence.open import open_engine
from deployments.florence.parsing import ModelAnswer
from deployments.florence.prompts import Prompts
from deployments.florence.sequence import Sequence
from deployments.florence.tasks import TASKS
from deployments.images.decode import to_pixels
from deployments.settings import InferenceSettings, ModelSettings
from tests.florence.questions import input_of, shapes_of

pytestmark = pytest.mark.slow

SIZE = (480, 360)
SQUARE, CIRCLE = (60, 80, 180, 200), (280, 120, 400, 240)
DISCS = (60, 90, 180, 210), (290, 140, 410, 260)
PHRASES = ("square <and> circle", "square, circle", "square. circle.")
NOT_LEARNED = {"square, circle", "square. circle."}  # the circle may be missed
GROUNDED = ("caption-to-phrase-grounding", "open-vocabulary-detection")
DETECTED = ("region-proposal", "object-detection", "dense-region-caption")
LOW = 0.5


@cache
def model() -> Model:
    """The demo checkpoint in fp32 on the CPU."""
    return Model(ModelSettings(path="demo", device="cpu", dtype="float32"))


def ask(path: str, image: Image.Image, **given: Any) -> Any:
    """What the demo says: the results of a task."""
    task, checkpoint, settings = TASKS[path], model().checkpoint, InferenceSettings()
    input = input_of(task, scores=True, **given)
    prompt = Prompts(checkpoint, settings).encode(task, input, image.size)
    pixels = to_pixels(image, checkpoint.image_size, checkpoint.resample)
    sequence = Sequence(pixels, prompt, num_beams=model().num_beams, scored=True)
    engine = open_engine(model(), settings, len(prompt))
    engine.add([sequence])
    while not engine.step():
        pass
    answer = ModelAnswer.of(
        sequence.tokens, checkpoint.vocabulary, image.size, sequence.scores, sequence.truncated
    )
    return task.read(answer, input)


def ground() -> Image.Image:
    """A light background with nothing on it."""
    return draw_background(random.Random(6), SIZE)


@cache
def square_and_circle() -> Image.Image:
    image = ground()
    draw = ImageDraw.Draw(image)
    draw.rectangle(SQUARE, fill=COLOURS["blue"])
    draw.ellipse(CIRCLE, fill=COLOURS["red"])
    return image


@cache
def two_discs() -> Image.Image:
    image = ground()
    for disc in DISCS:
        ImageDraw.Draw(image).ellipse(disc, fill=COLOURS["red"])
    return image


@pytest.mark.parametrize("phrases", PHRASES)
def test_phrases_are_found_however_they_are_parted(phrases: str) -> None:
    """A label is the phrase alone, and its box the thing."""
    found = ask("caption-to-phrase-grounding", square_and_circle(), text_input=phrases).bboxes
    boxes = {each.label: (each.x, each.y, each.x + each.w, each.y + each.h) for each in found}
    assert {"square"} <= boxes.keys() <= {"square", "circle"}
    assert len(boxes) == 2 or phrases in NOT_LEARNED
    for label, box in boxes.items():
        assert iou(box, {"square": SQUARE, "circle": CIRCLE}[label]) > 0.8


@pytest.mark.parametrize("path", GROUNDED)
def test_what_is_not_there_is_not_found(path: str) -> None:
    """No box for a giraffe among shapes."""
    assert ask(path, square_and_circle(), text_input="giraffe").bboxes == []


@pytest.mark.parametrize("path", GROUNDED)
@pytest.mark.parametrize("phrase", ["it", "the image"])
def test_a_word_that_names_nothing_is_not_found(path: str, phrase: str) -> None:
    """Whatever the model says of it."""
    assert ask(path, square_and_circle(), text_input=phrase).bboxes == []


@pytest.mark.parametrize("path", [*GROUNDED, *DETECTED])
@pytest.mark.parametrize("shade", [128, 220])
def test_nothing_is_found_on_plain_grey(path: str, shade: int) -> None:
    """Or, on a grey that it has not seen, nothing that it is sure of."""
    found = shapes_of(ask(path, Image.new("RGB", SIZE, (shade, shade, shade))))
    assert [each for each in found if shade == 220 or each.score >= LOW] == []


@pytest.mark.parametrize("path", [*GROUNDED, *DETECTED])
def test_nothing_is_found_on_a_texture(path: str) -> None:
    """Stone or bark is no shape."""
    texture = draw_texture(random.Random(6), SIZE)
    assert [each for each in shapes_of(ask(path, texture)) if each.score >= LOW] == []


def test_each_of_two_discs_has_a_polygon() -> None:
    """Inside the picture, of three points or more, and over the disc."""
    polygons = ask(
        "referring-expression-segmentation", two_discs(), text_input="red circles"
    ).polygons
    assert len(polygons) == 2
    assert all(len(polygon.points) >= 3 for polygon in polygons)
    points = [(point.x, point.y) for polygon in polygons for point in polygon.points]
    assert all(0 <= x <= SIZE[0] and 0 <= y <= SIZE[1] for x, y in points)
    for polygon, disc in zip(sorted(polygons, key=leftmost), DISCS, strict=True):
        outline = [(point.x / SIZE[0], point.y / SIZE[1]) for point in polygon.points]
        (x1, y1, x2, y2), (width, height) = disc, SIZE
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        whole = [(x / width, y / height) for x, y in corners]
        assert 0.6 < mask_iou([outline], [whole]) < 0.9  # a disc is 0.785 of its square


def leftmost(polygon: Any) -> float:
    return min(float(point.x) for point in polygon.points)


@pytest.mark.parametrize("turn", [0.0, 30.0])
def test_a_word_is_read_where_it_stands(turn: float) -> None:
    """Upright box, four corners from the text's top left, and the letters."""
    image, word = ground(), draw_word("CAT", "sans", 60, turn)
    image.paste(COLOURS["blue"], (120, 90), word.mask)
    quad = [(120 + x, 90 + y) for x, y in word.quad]
    [found] = ask("ocr-with-region", image).quad_boxes
    assert found.label == "CAT"
    assert (found.w, found.h) > (0, 0)
    assert mask_iou([parts(quad)], [parts([(p.x, p.y) for p in found.points])]) > 0.6
    box = (found.x, found.y, found.x + found.w, found.y + found.h)
    xs, ys = zip(*quad, strict=True)
    assert iou(box, (min(xs), min(ys), max(xs), max(ys))) > 0.7


def parts(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x / SIZE[0], y / SIZE[1]) for x, y in points]
