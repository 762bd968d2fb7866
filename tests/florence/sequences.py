"""The demo checkpoint, loaded once, and sequences about drawn scenes for it."""

import collections.abc
import random
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from deployments.demo.scenes import draw_scene
from deployments.florence.backend import Backend
from deployments.florence.model import Model
from deployments.florence.sequence import Sequence, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import ModelSettings


@cache
def model() -> Model:
    """The demo checkpoint in fp32 on the CPU."""
    return Model(demo())


def demo(**fields: Any) -> ModelSettings:
    """Settings for the demo checkpoint."""
    return ModelSettings(**{"path": "demo", "device": "cpu", "dtype": "float32"} | fields)


@cache
def scene(seed: int) -> Image.Image:
    """A drawn scene at the model's size."""
    drawn = draw_scene(random.Random(seed), (320, 240)).image
    return drawn.resize(model().checkpoint.image_size, Image.Resampling.BICUBIC)


def prompt(path: str) -> collections.abc.Sequence[int]:
    """The token ids of a task's question."""
    return model().checkpoint.prompt(TASKS[path].sentence)


def sequence(seed: int, path: str, **bounds: Any) -> Sequence:
    """A task about a scene."""
    return Sequence(np.asarray(scene(seed)), prompt(path), **bounds)


def mixed_batch(**bounds: Any) -> list[Sequence]:
    """Prompts of different lengths about different scenes."""
    return [sequence(seed, path, **bounds) for seed in (1, 2) for path in TASKS]


def fresh(sequences: Iterable[Sequence]) -> list[Sequence]:
    """The same sequences, not begun."""
    return [replace(each) for each in sequences]


def answers(backend: Backend, sequences: Iterable[Sequence]) -> list[Tokens]:
    """The tokens of each, when each begins as soon as there is a place."""
    running = fresh(sequences)
    waiting, num_ended = list(running), 0
    while num_ended < len(running):
        free = backend.max_batch_size - (len(running) - len(waiting) - num_ended)
        count = min(backend.prefill_batch_size, free, len(waiting))
        if count:
            backend.add(waiting[:count])
            del waiting[:count]
        num_ended += len(backend.step())
    return [each.tokens for each in running]


def new_tokens(answer: Tokens) -> int:
    """Tokens beyond the start token."""
    return len(answer) - 1
