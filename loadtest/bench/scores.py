"""What scores are worth: `python -m loadtest.bench.scores [--scenes 500] [--write docs/scores.md]`.

Hard scenes of the demo (small shapes and words, covered ones, textures, noise, nothing at all) go
through the engine with the demo checkpoint, with questions about what is there and what is not. An
item is right when a true one of the same label, not yet taken, overlaps it with an IoU of at least
0.5. The AUROC says how often a right item has a higher score than a wrong one; the reliability
table shows how many of the items of each tenth of the service's score are right. Both come from
scenes on which nothing was chosen. The comparison with other ways to make one score of an item's
tokens, by which the service's was chosen, has scenes of its own.
"""

import collections.abc
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import exp, prod
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageDraw

from deployments.demo.scenes import (
    Box,
    Point,
    Scene,
    draw_background,
    draw_mixed_scene,
    draw_texture,
)
from deployments.demo.scoring import iou
from deployments.demo.training.scores import mask_iou
from deployments.demo.training.tasks import TASKS as QUESTIONS
from deployments.demo.training.tasks import Example
from deployments.florence import parsing, scores
from deployments.florence.engine.engine import Engine
from deployments.florence.model import Model
from deployments.florence.open import open_engine
from deployments.florence.parsing import Found, ModelAnswer
from deployments.florence.schemas import BoundingBox, OCRBoundingBoxSingle, Polygon
from deployments.florence.sequence import Sequence as EngineSequence
from deployments.florence.tasks import TASKS
from deployments.florence.token_scores import TokenScores
from deployments.images.decode import to_pixels
from deployments.settings import InferenceSettings, ModelSettings

CHOICE_SEED = 16  # of the scenes on which the ways are compared
REPORT_SEED = 3_000_000  # of those on which nothing is chosen
SIZE = (320, 240)
RIGHT_IOU = 0.5
BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"
KINDS = ("plain", "small", "overlapping", "texture", "noise", "nothing")
FAMILIES = {
    "boxes": ("region-proposal", "object-detection", "dense-region-caption"),
    "phrases": ("caption-to-phrase-grounding", "open-vocabulary-detection"),
    "quads": ("ocr-with-region",),
    "polygons": ("referring-expression-segmentation", "region-to-segmentation"),
}
PATHS = tuple(path for paths in FAMILIES.values() for path in paths)
NUM_BINS = 10

Item = BoundingBox | OCRBoundingBoxSingle | Polygon


@dataclass(frozen=True)
class Judged:
    """An item that was found: its tokens' scores, and whether it is right."""

    path: str
    found: Found
    bins: list[int]
    scores: TokenScores
    is_right: bool

    @property
    def of_label(self) -> list[float]:
        """The probabilities of its label's tokens."""
        return [exp(self.scores.logprobs[index]) for index in self.found.label]

    @property
    def of_places(self) -> list[float]:
        """The probabilities of its locations."""
        return [exp(self.scores.logprobs[index]) for index in self.found.locations]

    @property
    def errors(self) -> list[float]:
        """How far its locations are off, as parts of its sides."""
        return scores.errors(self.scores, self.found.locations, self.bins)


Candidate = Callable[[Judged], float]


def label_mean(item: Judged) -> float:
    return scores.mean(item.of_label)


def label_least(item: Judged) -> float:
    return min(item.of_label, default=1.0)


def label_product(item: Judged) -> float:
    return prod(item.of_label)


def places_mean(item: Judged) -> float:
    return scores.mean(item.of_places)


def error_mean(item: Judged) -> float:
    return 1 - mean(item.errors)


def error_worst(item: Judged) -> float:
    return 1 - max(item.errors)


CANDIDATES: dict[str, Candidate] = {
    "mean of all tokens' probabilities": lambda item: scores.mean(item.of_label + item.of_places),
    "label: mean": label_mean,
    "label: least": label_least,
    "label: product": label_product,
    "locations: mean probability": places_mean,
    "locations: mean error": error_mean,
    "locations: worst error": error_worst,
    "label mean × location mean": lambda item: label_mean(item) * places_mean(item),
    "label mean × mean error": lambda item: label_mean(item) * error_mean(item),
    "label mean × worst error": lambda item: label_mean(item) * error_worst(item),
    "label product × mean error": lambda item: label_product(item) * error_mean(item),
    "least of label and mean error": lambda item: min(label_least(item), error_mean(item)),
}
SERVICE = "the service's score"


def service_score(item: Judged) -> float:
    return scores.of_item(item.scores, item.found.label, item.found.locations, item.bins)


def main(
    scenes: Annotated[int, typer.Option(min=6, help="Hard scenes, of each of both sets.")] = 500,
    beams: Annotated[int, typer.Option(min=1, help="Beams of every answer.")] = 1,
    write: Annotated[Path | None, typer.Option(help="The page that gets the figures.")] = None,
) -> None:
    """Answer, judge, and print what each way to score is worth."""
    judged, others = (judge(scenes, beams, seed) for seed in (REPORT_SEED, CHOICE_SEED))
    lines = [
        *heading(judged, scenes, beams),
        *aurocs(judged, {SERVICE: service_score}),
        *reliabilities(judged),
        "",
        "Other scenes, on which the service's score was chosen:",
        *heading(others, scenes, beams),
        *aurocs(others, CANDIDATES | {SERVICE: service_score}),
    ]
    typer.echo("\n".join(lines))
    if write is not None:
        page = write.read_text()
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2]
        write.write_text("\n".join([before + BEGIN, *lines, END + after]))


def judge(num: int, beams: int, seed: int) -> list[Judged]:
    """Every item that the model finds in `num` hard scenes, a kind and a task in turn."""
    model = Model(ModelSettings(path="demo", device="cpu", dtype="float32"))
    turns = [*product(PATHS, KINDS)]
    asked = [
        ask(model, random.Random(seed + number), *turns[number % len(turns)])
        for number in range(num)
    ]
    longest = max(len(each.sequence.prompt) for each in asked)
    engine = open_engine(model, InferenceSettings(num_beams=beams), longest)
    run(engine, [each.sequence for each in asked])
    return [judged for each in asked for judged in judge_answer(each, model)]


@dataclass(frozen=True)
class Asked:
    """A question about a scene, and the sequence that answers it."""

    path: str
    scene: Scene
    question: Example
    sequence: EngineSequence


def ask(model: Model, rng: random.Random, path: str, kind: str) -> Asked:
    """A question as the demo knows them, about a scene of this kind."""
    checkpoint, scene = model.checkpoint, hard_scene(rng, kind)
    task = next(each for each in QUESTIONS if each.marker == TASKS[path].marker)
    question = task.ask(rng, scene)
    pixels = to_pixels(scene.image, checkpoint.image_size, checkpoint.resample)
    prompt = checkpoint.prompt(task.prompt(question))
    return Asked(path, scene, question, EngineSequence(pixels, prompt, scored=True))


def run(engine: Engine, asked: collections.abc.Sequence[EngineSequence]) -> None:
    """Answer all, as many at a time as there are places."""
    waiting, num_running = list(asked), 0
    while waiting or num_running:
        free = min(engine.max_batch_size - num_running, engine.prefill_batch_size, len(waiting))
        if free:
            engine.add([waiting.pop(0) for _ in range(free)])
            num_running += free
        num_running -= len(engine.step())


def judge_answer(asked: Asked, model: Model) -> list[Judged]:
    """The items of an answer, each right if it is a true one's first."""
    vocabulary, sequence = model.checkpoint.vocabulary, asked.sequence
    size = asked.scene.image.size
    given = ModelAnswer.of(sequence.tokens, vocabulary, size, sequence.scores, sequence.truncated)
    right = ModelAnswer.of(vocabulary.encode(asked.question.answer), vocabulary, size)
    assert given.scores is not None
    left, judged = [item for _, item in items(right, asked.path)], []
    for found, item in items(given, asked.path):
        true = next((each for each in left if fits(each, item, size)), None)
        if true is not None:
            left.remove(true)
        judged.append(Judged(asked.path, found, given.bins(found), given.scores, true is not None))
    return judged


def items(answer: ModelAnswer, path: str) -> list[tuple[Found, Item]]:
    """What an answer holds, with the tokens that say it."""
    found: Iterable[Found]
    make: Callable[[ModelAnswer, Found], Item | None]
    if path in FAMILIES["polygons"]:
        matches = parsing.POLYGONS.finditer(answer.kinds)
        instances = (parts for match in matches for parts in parsing.instances(answer, match))
        found, make = (part for parts in instances for part in parts), parsing.polygon
    elif path in FAMILIES["quads"]:
        matches = parsing.LABELLED_QUADS.finditer(answer.kinds)
        found = (each for match in matches for each in parsing.groups(match, 8))
        make = parsing.quad
    else:
        is_bare = path == "region-proposal"
        pattern = parsing.BOXES if is_bare else parsing.LABELLED_BOXES
        found, make = parsing.fours(answer, pattern), parsing.box
    made = [(each, make(answer, each)) for each in found]
    return [(each, item) for each, item in made if item is not None]


def fits(true: Item, given: Item, size: tuple[int, int]) -> bool:
    """Whether an item is called as the true one, and lies where it does."""
    if true.label != given.label:
        return False
    if isinstance(true, BoundingBox) and isinstance(given, BoundingBox):
        return iou(corners(true), corners(given)) >= RIGHT_IOU
    return mask_iou([outline(true, size)], [outline(given, size)]) >= RIGHT_IOU


def corners(box: BoundingBox) -> Box:
    return box.x, box.y, box.x + box.w, box.y + box.h


def outline(item: Any, size: tuple[int, int]) -> list[Point]:
    """The points of a quad or a polygon as parts of the image's (width, height)."""
    return [(point.x / size[0], point.y / size[1]) for point in item.points]


def hard_scene(rng: random.Random, kind: str) -> Scene:
    """A scene that is hard in one way; its things are known."""
    if kind == "nothing":
        return Scene(rng.choice((draw_background, draw_texture))(rng, SIZE), ())
    scene = draw_mixed_scene(rng, SIZE)
    if kind == "small":
        return shrunk(rng, scene, rng.uniform(0.3, 0.6))
    if kind == "overlapping":
        return covered(rng, scene)
    if kind == "texture":
        return replace(scene, image=textured(rng, scene.image))
    if kind == "noise":
        return replace(scene, image=noisy(rng, scene.image))
    return scene


def shrunk(rng: random.Random, scene: Scene, scale: float) -> Scene:
    """The same scene in a part of a larger one."""
    width, height = scene.image.size
    small = scene.image.resize((round(width * scale), round(height * scale)))
    canvas = draw_background(rng, scene.image.size)
    left, top = rng.randint(0, width - small.width), rng.randint(0, height - small.height)
    canvas.paste(small, (left, top))

    def moved(point: Point) -> Point:
        return left + scale * point[0], top + scale * point[1]

    def moved_box(box: Box) -> Box:
        return (*moved(box[:2]), *moved(box[2:]))

    return Scene(
        canvas,
        tuple(replace(each, box=moved_box(each.box)) for each in scene.objects),
        tuple(
            replace(each, box=moved_box(each.box), quad=tuple(map(moved, each.quad)))
            for each in scene.words
        ),
    )


def covered(rng: random.Random, scene: Scene) -> Scene:
    """A bar of another colour over a part of each thing."""
    image = scene.image.copy()
    draw = ImageDraw.Draw(image)
    boxes = [*(thing.box for thing in scene.objects), *(word.box for word in scene.words)]
    for x1, y1, x2, y2 in boxes:
        part = rng.uniform(0.55, 0.85)  # with less in sight, nobody could tell where it ends
        colour = rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)
        draw.rectangle((x1 - 4, y1 + part * (y2 - y1), x2 + 4, y2 + 4), fill=colour)
    return replace(scene, image=image)


def textured(rng: random.Random, image: Image.Image) -> Image.Image:
    """Blotches of every size over all of it."""
    noise, layers = np.random.default_rng(rng.getrandbits(32)), np.zeros((*image.size[::-1], 3))
    for cells in (4, 9, 20):
        small = noise.integers(0, 256, (cells, cells, 3), np.uint8)
        large = Image.fromarray(small).resize(image.size, Image.Resampling.BICUBIC)
        layers += np.asarray(large, dtype=float) / 3
    strength = rng.uniform(0.3, 0.8)
    return blended(image, layers, strength)


def noisy(rng: random.Random, image: Image.Image) -> Image.Image:
    """Noise of each pixel's own."""
    noise = np.random.default_rng(rng.getrandbits(32))
    return blended(image, noise.uniform(0, 255, (*image.size[::-1], 3)), rng.uniform(0.3, 0.8))


def blended(image: Image.Image, other: np.ndarray, share: float) -> Image.Image:
    mixed = (1 - share) * np.asarray(image, dtype=float) + share * other
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def heading(judged: Sequence[Judged], scenes: int, beams: int) -> list[str]:
    right = sum(each.is_right for each in judged)
    return [f"{scenes} scenes, {beams} beam(s): {len(judged)} items, {right} of them right.", ""]


def aurocs(judged: Sequence[Judged], candidates: Mapping[str, Candidate]) -> list[str]:
    """How well each way tells right items from wrong ones, as Markdown."""
    lines = [f"| one score of | AUROC, all | {' | '.join(FAMILIES)} |", "|---|---|---|---|---|---|"]
    parts = [judged, *([j for j in judged if j.path in paths] for paths in FAMILIES.values())]
    for name, candidate in candidates.items():
        cells = [f"{auroc(part, candidate):.3f}" for part in parts]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def reliabilities(judged: Sequence[Judged]) -> list[str]:
    """The share of right items by the service's score, as Markdown."""
    lines = ["", "| score | items | right | mean score |", "|---|---|---|---|"]
    return lines + [reliability(judged, number) for number in range(NUM_BINS)]


def reliability(judged: Sequence[Judged], number: int) -> str:
    """One row of the reliability table."""
    scored = [(service_score(each), each.is_right) for each in judged]
    inside = [(s, right) for s, right in scored if min(int(s * NUM_BINS), NUM_BINS - 1) == number]
    low, high = number / NUM_BINS, (number + 1) / NUM_BINS
    if not inside:
        return f"| {low:.1f} to {high:.1f} | 0 | – | – |"
    share, average = mean(right for _, right in inside), mean(s for s, _ in inside)
    return f"| {low:.1f} to {high:.1f} | {len(inside)} | {share:.2f} | {average:.2f} |"


def auroc(judged: Sequence[Judged], candidate: Candidate) -> float:
    """How often a right item scores higher than a wrong one, ties counted half."""
    right = np.array([candidate(j) for j in judged if j.is_right])
    wrong = np.array([candidate(j) for j in judged if not j.is_right])
    if not len(right) or not len(wrong):
        return float("nan")
    higher = (right[:, None] > wrong).mean() + 0.5 * (right[:, None] == wrong).mean()
    return float(higher)


if __name__ == "__main__":
    typer.run(main)
