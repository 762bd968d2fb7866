"""Training batches: scenes as tensors, and several questions about each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from deployments.demo.scenes import COLOURS, SHAPES, Point, Scene, draw_mixed_scene, random_size
from deployments.demo.training.model import (
    GRID,
    IMAGE_MEAN,
    IMAGE_SIDE,
    IMAGE_STD,
    NUM_IMAGE_TOKENS,
)
from deployments.demo.training.tasks import TASKS, WORD, TrainingTask, things
from deployments.demo.training.tokenizer import IMAGE_TOKEN
from deployments.demo.words import LETTERS

MOST_WORDS = 4  # of a scene: more than a scene needs, because reading is the hardest to learn
SCENE_SIDE = 256  # pixels; canvases have about the area of this square
SUBCELLS = 2 * GRID  # of a side, to say where letters are
IGNORED = -100
CATEGORIES = (*SHAPES, WORD)


@dataclass(frozen=True)
class Cells:
    """The image cells whose centre lies in a thing, and that thing; K of them in a batch."""

    scene: Tensor  # (K,) index in the batch
    cell: Tensor  # (K,) 0 to GRID * GRID - 1, row by row
    box: Tensor  # (K, 4) x1, y1, x2, y2 as parts of the image side
    corners: Tensor  # (K, 8) the first four points of the outline, likewise
    colour: Tensor  # (K,)
    category: Tensor  # (K,)


@dataclass(frozen=True)
class Batch:
    """Model inputs and the answers to learn; B scenes, Q questions about each, S prompt tokens
    (the image's come first), T answer tokens."""

    pixel_values: Tensor  # (B, 3, IMAGE_SIDE, IMAGE_SIDE)
    input_ids: Tensor  # (B * Q, S)
    attention_mask: Tensor  # (B * Q, S)
    decoder_input_ids: Tensor  # (B * Q, T)
    labels: Tensor  # (B * Q, T), IGNORED beyond the end
    cells: Cells
    letters: Tensor  # (B, SUBCELLS, SUBCELLS): 0 where there is none, else 1 to 26


def draw_batch(
    rng: random.Random,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    num_questions: int,
    is_late: bool = False,
) -> Batch:
    """Draw `size` new scenes, and ask `num_questions` tasks about each, by the tasks' shares."""
    sizes = [random_size(rng, SCENE_SIDE) for _ in range(size)]
    scenes = [draw_mixed_scene(rng, canvas, MOST_WORDS) for canvas in sizes]
    asked = [_ask(rng, scene, is_late) for scene in scenes for _ in range(num_questions)]
    image = IMAGE_TOKEN * NUM_IMAGE_TOKENS
    prompts = _tokens(tokenizer, [f"{image}<s>{prompt}</s>" for prompt, _ in asked])
    labels = _tokens(tokenizer, [f"<s>{answer}</s>" for _, answer in asked])
    given = torch.cat([torch.full_like(labels[:, :1], 2), labels[:, :-1]], dim=1)
    return Batch(
        pixel_values=normalise([s.image for s in scenes]),
        input_ids=prompts,
        attention_mask=(prompts != 1).long(),
        decoder_input_ids=given,
        labels=labels.masked_fill(labels == 1, IGNORED),
        cells=_cells(scenes),
        letters=_letters(scenes),
    )


def normalise(images: list[Image.Image]) -> Tensor:
    """RGB images as (B, 3, IMAGE_SIDE, IMAGE_SIDE), as the saved processor makes them."""
    small = [i.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC) for i in images]
    pixels = torch.from_numpy(np.stack([np.asarray(i) for i in small])).permute(0, 3, 1, 2)
    mean = torch.tensor(IMAGE_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGE_STD).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def _ask(rng: random.Random, scene: Scene, is_late: bool) -> tuple[str, str]:
    """A prompt and its answer; reading is seldom asked where there is nothing to read."""
    shares = [task.late_share if is_late else task.share for task in TASKS]
    while True:
        (task,) = rng.choices(TASKS, weights=shares)
        if scene.words or not task.marker.startswith("<OCR") or rng.random() < 0.1:
            return _asked(rng, scene, task)


def _asked(rng: random.Random, scene: Scene, task: TrainingTask) -> tuple[str, str]:
    question = task.ask(rng, scene)
    return task.prompt(question), question.answer


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    ids = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").input_ids
    assert isinstance(ids, Tensor)
    return ids


def _cells(scenes: list[Scene]) -> Cells:
    rows: list[tuple[int, int, list[float], list[float], int, int]] = []
    colours = list(COLOURS)
    for index, scene in enumerate(scenes):
        sides = scene.image.size
        for thing in things(scene):
            box = _parts((thing.box[:2], thing.box[2:]), sides)
            corners = _parts((*thing.outline, thing.outline[0])[:4], sides)
            kind = colours.index(thing.colour), CATEGORIES.index(thing.category)
            rows += [
                (index, row * GRID + column, box, corners, *kind)
                for row in _centres_between(box[1], box[3])
                for column in _centres_between(box[0], box[2])
            ]
    scene_, cell, box_, corners_, colour, category = zip(*rows, strict=True)
    columns = (scene_, cell, box_, corners_, colour, category)
    return Cells(*(torch.tensor(column) for column in columns))


def _letters(scenes: list[Scene]) -> Tensor:
    found = torch.zeros(len(scenes), SUBCELLS, SUBCELLS, dtype=torch.long)
    for index, scene in enumerate(scenes):
        for word in scene.words:
            for letter, point in zip(word.text, word.letters, strict=True):
                x, y = (min(SUBCELLS - 1, int(v * SUBCELLS)) for v in _part(point, scene))
                found[index, y, x] = 1 + LETTERS.index(letter)
    return found


def _part(point: Point, scene: Scene) -> Sequence[float]:
    return _parts((point,), scene.image.size)


def _parts(points: Sequence[Sequence[float]], sides: tuple[int, int]) -> list[float]:
    """x, y of each point as parts of the sides."""
    return [value / side for point in points for value, side in zip(point, sides, strict=True)]


def _centres_between(low: float, high: float) -> list[int]:
    """The cells of one axis whose centres lie between two parts of the side; at least one."""
    inside = [i for i in range(GRID) if low <= (i + 0.5) / GRID < high]
    return inside or [min(GRID - 1, int((low + high) / 2 * GRID))]
