"""Training batches: scenes as tensors."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from deployments.demo.scenes import COLOURS, SHAPES, Scene, draw_scene, random_size
from deployments.demo.training.model import (
    GRID,
    IMAGE_MEAN,
    IMAGE_SIDE,
    IMAGE_STD,
    NUM_IMAGE_TOKENS,
)
from deployments.demo.training.tasks import TASKS, TrainingTask
from deployments.demo.training.tokenizer import IMAGE_TOKEN

SCENE_SIDE = 224  # pixels; canvases have about the area of this square
IGNORED = -100


@dataclass(frozen=True)
class Cells:
    """The image cells whose centre lies in an object, and that object; K of them in a batch."""

    scene: Tensor  # (K,) index in the batch
    cell: Tensor  # (K,) 0 to GRID * GRID - 1, row by row
    box: Tensor  # (K, 4) x1, y1, x2, y2 as parts of the image side
    colour: Tensor  # (K,)
    shape: Tensor  # (K,)


@dataclass(frozen=True)
class Batch:
    """Model inputs and the answers to learn; B scenes, S prompt tokens, T answer tokens."""

    pixel_values: Tensor  # (B, 3, IMAGE_SIDE, IMAGE_SIDE)
    input_ids: Tensor  # (B, S)
    attention_mask: Tensor  # (B, S)
    decoder_input_ids: Tensor  # (B, T)
    labels: Tensor  # (B, T), IGNORED beyond the end
    cells: Cells


def draw_batch(rng: random.Random, tokenizer: PreTrainedTokenizerBase, size: int) -> Batch:
    """Draw `size` new scenes, each asked one task drawn by the tasks' shares."""
    scenes = [draw_scene(rng, random_size(rng, SCENE_SIDE)) for _ in range(size)]
    tasks = rng.choices(TASKS, weights=[t.share for t in TASKS], k=size)
    return make_batch(scenes, tasks, tokenizer)


def make_batch(
    scenes: list[Scene], tasks: list[TrainingTask], tokenizer: PreTrainedTokenizerBase
) -> Batch:
    image = IMAGE_TOKEN * NUM_IMAGE_TOKENS
    prompts = _tokens(tokenizer, [f"{image}<s>{t.sentence}</s>" for t in tasks])
    answers = [f"<s>{t.answer(s)}</s>" for s, t in zip(scenes, tasks, strict=True)]
    labels = _tokens(tokenizer, answers)
    given = torch.cat([torch.full_like(labels[:, :1], 2), labels[:, :-1]], dim=1)
    return Batch(
        pixel_values=normalise([s.image for s in scenes]),
        input_ids=prompts,
        attention_mask=(prompts != 1).long(),
        decoder_input_ids=given,
        labels=labels.masked_fill(labels == 1, IGNORED),
        cells=_cells(scenes),
    )


def normalise(images: list[Image.Image]) -> Tensor:
    """RGB images as (B, 3, IMAGE_SIDE, IMAGE_SIDE), as the saved processor makes them."""
    small = [i.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC) for i in images]
    pixels = torch.from_numpy(np.stack([np.asarray(i) for i in small])).permute(0, 3, 1, 2)
    mean = torch.tensor(IMAGE_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGE_STD).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    ids = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").input_ids
    assert isinstance(ids, Tensor)
    return ids


def _cells(scenes: list[Scene]) -> Cells:
    rows: list[tuple[int, int, list[float], int, int]] = []
    colours = list(COLOURS)
    for index, scene in enumerate(scenes):
        width, height = scene.image.size
        for item in scene.objects:
            x1, y1, x2, y2 = item.box
            box = [x1 / width, y1 / height, x2 / width, y2 / height]
            kind = colours.index(item.colour), SHAPES.index(item.shape)
            rows += [
                (index, row * GRID + column, box, *kind)
                for row in _centres_between(box[1], box[3])
                for column in _centres_between(box[0], box[2])
            ]
    scene_, cell, box_, colour, shape = zip(*rows, strict=True)
    return Cells(*(torch.tensor(column) for column in (scene_, cell, box_, colour, shape)))


def _centres_between(low: float, high: float) -> list[int]:
    """The cells of one axis whose centres lie between two parts of the side; at least one."""
    inside = [i for i in range(GRID) if low <= (i + 0.5) / GRID < high]
    return inside or [min(GRID - 1, int((low + high) / 2 * GRID))]
