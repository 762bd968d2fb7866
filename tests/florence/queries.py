"""The demo checkpoint, loaded once, and questions about drawn scenes for it."""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from deployments.demo.scenes import draw_scene
from deployments.florence.backend import Backend, Job
from deployments.florence.model import Model
from deployments.florence.request import Query, Tokens
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
    return drawn.resize((128, 128), Image.Resampling.BICUBIC)


def prompt(path: str) -> Sequence[int]:
    """The token ids of a task's question."""
    return model().checkpoint.prompt(TASKS[path].sentence)


def query(seed: int, path: str, **bounds: Any) -> Query:
    """A task about a scene."""
    return Query(np.asarray(scene(seed)), prompt(path), **bounds)


def mixed_batch(**bounds: Any) -> list[Query]:
    """Prompts of different lengths about different scenes."""
    return [query(seed, path, **bounds) for seed in (1, 2) for path in TASKS]


def answers(backend: Backend[Query, Tokens], queries: Sequence[Query]) -> list[Tokens]:
    """What `backend` says, when each query begins as soon as there is a slot."""
    jobs = [Job(query) for query in queries]
    waiting, found = list(jobs), dict[Job[Query], Tokens]()
    while len(found) < len(jobs):
        under_way = len(jobs) - len(waiting) - len(found)
        count = min(backend.micro_batch, backend.num_slots - under_way, len(waiting))
        if count:
            backend.admit(waiting[:count])
            del waiting[:count]
        found |= dict(backend.step())
    return [found[job] for job in jobs]


def new_tokens(answer: Tokens) -> int:
    """Tokens beyond the start token."""
    return len(answer) - 1
