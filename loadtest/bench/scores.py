"""What scores are worth: `python -m loadtest.bench.scores [--scenes 500] [--write docs/scores.md]`.

Hard scenes of the demo (small shapes, overlapping ones, textures, noise, nothing at all) go through
the engine with the demo checkpoint. A box is right when a true one of the same label, not yet
taken, overlaps it with an IoU of at least 0.5. The AUROC says how often a right box has a higher
score than a wrong one; the reliability table shows how many of the boxes of each tenth of the
service's score are right. Both come from scenes on which nothing was chosen. The comparison with
other ways to make one score of an item's tokens, by which the service's was chosen, has scenes of
its own.
"""

import collections.abc
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, prod
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw

from deployments.demo.scenes import Box, Scene, SceneObject, draw_background, draw_scene
from deployments.demo.scoring import iou
from deployments.florence import parsing, scores
from deployments.florence.engine.engine import Engine
from deployments.florence.model import Model
from deployments.florence.open import open_engine
from deployments.florence.parsing import Found, ModelAnswer
from deployments.florence.sequence import Sequence as EngineSequence
from deployments.florence.tasks import TASKS
from deployments.florence.token_scores import TokenScores
from deployments.images.decode import to_pixels
from deployments.settings import InferenceSettings, ModelSettings

CHOICE_SEED = 16  # of the scenes on which the ways are compared
REPORT_SEED = 1_000_000  # of those on which nothing is chosen
SIZE = (320, 240)
RIGHT_IOU = 0.5
BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"
KINDS = ("plain", "small", "overlapping", "texture", "noise", "nothing")
PATHS = ("region-proposal", "object-detection", "dense-region-caption")
NUM_BINS = 10

Candidate = Callable[[TokenScores, Found], float]


@dataclass(frozen=True)
class Judged:
    """A box that was found: its tokens' scores, and whether it is right."""

    path: str
    kind: str
    found: Found
    scores: TokenScores
    is_right: bool


def label_mean(given: TokenScores, found: Found) -> float:
    return scores.mean([exp(given.logprobs[index]) for index in found.label])


def label_least(given: TokenScores, found: Found) -> float:
    return min((exp(given.logprobs[index]) for index in found.label), default=1.0)


def label_product(given: TokenScores, found: Found) -> float:
    return prod(exp(given.logprobs[index]) for index in found.label)


def places_mean(given: TokenScores, found: Found) -> float:
    return scores.mean([given.masses[index] for index in found.locations])


def places_least(given: TokenScores, found: Found) -> float:
    return min(given.masses[index] for index in found.locations)


def places_product(given: TokenScores, found: Found) -> float:
    return prod(given.masses[index] for index in found.locations)


def tokens_mean(given: TokenScores, found: Found) -> float:
    indices = (*found.label, *found.locations)
    return scores.mean([exp(given.logprobs[index]) for index in indices])


CANDIDATES: dict[str, Candidate] = {
    "mean of all tokens' probabilities": tokens_mean,
    "label: mean": label_mean,
    "label: least": label_least,
    "label: product": label_product,
    "locations: mean mass": places_mean,
    "locations: least mass": places_least,
    "locations: product of masses": places_product,
    "label mean × location mean": lambda s, f: label_mean(s, f) * places_mean(s, f),
    "label mean × least location": lambda s, f: label_mean(s, f) * places_least(s, f),
    "label mean × location product": lambda s, f: label_mean(s, f) * places_product(s, f),
    "label product × location product": lambda s, f: label_product(s, f) * places_product(s, f),
    "least of label and locations": lambda s, f: min(label_least(s, f), places_least(s, f)),
}
SERVICE = "the service's score"


def service_score(given: TokenScores, found: Found) -> float:
    return scores.of_item(given, found.label, found.locations)


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
    """Every box that the model finds in `num` hard scenes, a task each in turn."""
    model = Model(ModelSettings(path="demo", device="cpu", dtype="float32"))
    checkpoint = model.checkpoint
    prompts = [checkpoint.prompt(TASKS[path].sentence) for path in PATHS]
    settings = InferenceSettings(num_beams=beams)
    engine = open_engine(model, settings, max(map(len, prompts)))
    drawn = [hard_scene(random.Random(seed + n), KINDS[n % len(KINDS)]) for n in range(num)]
    asked = [
        EngineSequence(
            to_pixels(scene.image, checkpoint.image_size, checkpoint.resample),
            prompts[number // len(KINDS) % len(PATHS)],
            scored=True,
        )
        for number, scene in enumerate(drawn)
    ]
    run(engine, asked)
    found = []
    for number, (scene, sequence) in enumerate(zip(drawn, asked, strict=True)):
        path, kind = PATHS[number // len(KINDS) % len(PATHS)], KINDS[number % len(KINDS)]
        answer = ModelAnswer.of(
            sequence.tokens,
            checkpoint.vocabulary,
            scene.image.size,
            sequence.scores,
            sequence.truncated,
        )
        found += judged_boxes(answer, scene, path, kind)
    return found


def run(engine: Engine, asked: collections.abc.Sequence[EngineSequence]) -> None:
    """Answer all, as many at a time as there are places."""
    waiting, num_running = list(asked), 0
    while waiting or num_running:
        free = min(engine.max_batch_size - num_running, engine.prefill_batch_size, len(waiting))
        if free:
            engine.add([waiting.pop(0) for _ in range(free)])
            num_running += free
        num_running -= len(engine.step())


def judged_boxes(answer: ModelAnswer, scene: Scene, path: str, kind: str) -> list[Judged]:
    """The boxes of an answer, each right if it is a true one's first."""
    assert answer.scores is not None
    pattern = parsing.BOXES if path == PATHS[0] else parsing.LABELLED_BOXES
    left, judged = list(scene.objects), []
    for found in parsing.fours(answer, pattern):
        made = parsing.box(answer, found)
        if made is None:
            continue
        corners = made.x, made.y, made.x + made.w, made.y + made.h
        true = next((o for o in left if fits(o, corners, made.label, path)), None)
        if true is not None:
            left.remove(true)
        judged.append(Judged(path, kind, found, answer.scores, true is not None))
    return judged


def fits(truth: SceneObject, corners: Box, label: str, path: str) -> bool:
    """Whether a box is this thing, and called what the task calls it."""
    labels = {
        PATHS[0]: "",
        PATHS[1]: truth.shape,
        PATHS[2]: f"{truth.colour} {truth.shape}",
    }
    return iou(truth.box, corners) >= RIGHT_IOU and label == labels[path]


def hard_scene(rng: random.Random, kind: str) -> Scene:
    """A scene that is hard in one way; its things are known."""
    if kind == "nothing":
        return Scene(draw_background(rng, SIZE), ())
    scene = draw_scene(rng, SIZE)
    if kind == "small":
        return shrunk(rng, scene, rng.uniform(0.3, 0.6))
    if kind == "overlapping":
        return covered(rng, scene)
    if kind == "texture":
        return Scene(textured(rng, scene.image), scene.objects)
    if kind == "noise":
        return Scene(noisy(rng, scene.image), scene.objects)
    return scene


def shrunk(rng: random.Random, scene: Scene, scale: float) -> Scene:
    """The same scene in a part of a larger one."""
    width, height = scene.image.size
    small = scene.image.resize((round(width * scale), round(height * scale)))
    canvas = draw_background(rng, scene.image.size)
    x, y = rng.randint(0, width - small.width), rng.randint(0, height - small.height)
    canvas.paste(small, (x, y))
    moved = [
        SceneObject(
            o.shape, o.colour, (x + scale * o.box[0], y + scale * o.box[1],
                                x + scale * o.box[2], y + scale * o.box[3])
        )
        for o in scene.objects
    ]  # fmt: skip
    return Scene(canvas, tuple(moved))


def covered(rng: random.Random, scene: Scene) -> Scene:
    """A bar of another colour over a part of each thing."""
    image = scene.image.copy()
    draw = ImageDraw.Draw(image)
    for thing in scene.objects:
        x1, y1, x2, y2 = thing.box
        part = rng.uniform(0.2, 0.7)
        colour = rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)
        draw.rectangle((x1 - 4, y1 + part * (y2 - y1), x2 + 4, y2 + 4), fill=colour)
    return Scene(image, scene.objects)


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
    return [f"{scenes} scenes, {beams} beam(s): {len(judged)} boxes, {right} of them right.", ""]


def aurocs(judged: Sequence[Judged], candidates: Mapping[str, Candidate]) -> list[str]:
    """How well each way tells right boxes from wrong ones, as Markdown."""
    columns = "| one score of | AUROC, all | " + " | ".join(PATHS) + " |"
    lines = [columns, "|---|---|---|---|---|"]
    parts = [judged, *([j for j in judged if j.path == path] for path in PATHS)]
    for name, candidate in candidates.items():
        cells = [f"{auroc(part, candidate):.3f}" for part in parts]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def reliabilities(judged: Sequence[Judged]) -> list[str]:
    """The share of right boxes by the service's score, as Markdown."""
    lines = ["", "| score | boxes | right | mean score |", "|---|---|---|---|"]
    return lines + [reliability(judged, number) for number in range(NUM_BINS)]


def reliability(judged: Sequence[Judged], number: int) -> str:
    """One row of the reliability table."""
    scored = [(service_score(each.scores, each.found), each.is_right) for each in judged]
    inside = [(s, right) for s, right in scored if min(int(s * NUM_BINS), NUM_BINS - 1) == number]
    low, high = number / NUM_BINS, (number + 1) / NUM_BINS
    if not inside:
        return f"| {low:.1f} to {high:.1f} | 0 | – | – |"
    share, average = mean(right for _, right in inside), mean(s for s, _ in inside)
    return f"| {low:.1f} to {high:.1f} | {len(inside)} | {share:.2f} | {average:.2f} |"


def auroc(judged: Sequence[Judged], candidate: Candidate) -> float:
    """How often a right box scores higher than a wrong one, ties counted half."""
    right = np.array([candidate(j.scores, j.found) for j in judged if j.is_right])
    wrong = np.array([candidate(j.scores, j.found) for j in judged if not j.is_right])
    if not len(right) or not len(wrong):
        return float("nan")
    higher = (right[:, None] > wrong).mean() + 0.5 * (right[:, None] == wrong).mean()
    return float(higher)


if __name__ == "__main__":
    typer.run(main)
