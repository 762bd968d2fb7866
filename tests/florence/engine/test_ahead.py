"""A step that is launched before the last one is known: what a GPU does, here on a CPU.

Then a step has as many rows and positions as a recording, also such as hold no sequence any more,
and a sequence that has ended stays in the batch for one step more.
"""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from deployments.florence.backend import Job
from deployments.florence.engine.build import Size, build
from deployments.florence.engine.engine import Engine, Options
from deployments.florence.engine.inputs import Inputs
from deployments.florence.model import Model
from deployments.florence.request import Query, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import ModelSettings
from tests.florence.engine.checkpoints import UNEVEN, random_checkpoint

pytestmark = pytest.mark.slow

LONGEST = 100  # two sizes of a recording
LENGTHS = (90, 5, 70, 3, 6, 9, 4)
BEAMS = {"greedy": (1,), "beams": (3,), "mixed": (1, 3, 3, 1, 2)}
PAUSES = 0.2  # share of the steps after which one gives up its row


@cache
def model() -> Model:
    """Random weights, whose scores are never nearly equal."""
    folder = Path(tempfile.mkdtemp()) / "checkpoint"
    return Model(ModelSettings(path=str(random_checkpoint(UNEVEN, folder)), device="cpu"))


def engine(ahead: bool) -> Engine:
    """Four slots; no answer ends before its own limit."""
    found = model()
    image_tokens = found.checkpoint.num_image_tokens
    inputs = Inputs(found.mean, found.std, image_tokens, found.pad, None, found.dtype)
    options = Options(3, LONGEST, min_new_tokens=LONGEST, micro_batch=2, ahead=ahead)
    size = Size(num_rows=4, num_words=24)
    return build(found.florence, inputs, found.rules(), options, size, found.checkpoint.image_size)


def queries(name: str) -> list[Query]:
    """Noise, the tasks in turn, and answers of very different lengths."""
    beams, noise, checkpoint = BEAMS[name], np.random.default_rng(0), model().checkpoint
    prompts = [checkpoint.prompt(task.sentence) for task in TASKS.values()]
    width, height = checkpoint.image_size
    return [
        Query(
            noise.integers(0, 256, (height, width, 3), np.uint8),
            prompts[i % len(prompts)],
            num_beams=beams[i % len(beams)],
            max_new_tokens=length,
        )
        for i, length in enumerate(LENGTHS)
    ]


def answers(backend: Engine, asked: Sequence[Query], pauses: float = 0.0) -> list[Tokens]:
    """What it says, when one begins in each step as long as there is a slot."""
    jobs = [Job(each) for each in asked]
    chance, waiting, found = random.Random(0), list(jobs), dict[Job[Query], Tokens]()
    while len(found) < len(jobs):
        running = [job for job in jobs if job not in waiting and job not in found]
        if running and chance.random() < pauses:
            tired = chance.choice(running)
            if backend.suspend(tired):
                waiting.append(tired)
                running.remove(tired)
        if waiting and len(running) < backend.num_slots:
            backend.admit([waiting.pop(0)])
        found |= dict(backend.step())
    return [found[job] for job in jobs]


@cache
def expected(name: str) -> list[Tokens]:
    """What the engine says when it looks before each step."""
    return answers(engine(ahead=False), queries(name))


@pytest.mark.parametrize("pauses", [0.0, PAUSES], ids=["at a stretch", "with pauses"])
@pytest.mark.parametrize("name", BEAMS)
def test_the_same_answers(name: str, pauses: float) -> None:
    """Whoever sits beside whom, and however long those were that left."""
    assert answers(engine(ahead=True), queries(name), pauses) == expected(name)


def test_lengths() -> None:
    """The answers above are as long as they were meant to be."""
    assert tuple(len(answer) - 1 for answer in expected("mixed")) == LENGTHS


@pytest.mark.parametrize("is_reset", [False, True], ids=["ended", "reset"])
def test_rows_that_were_long(is_reset: bool) -> None:
    """Where a step has more rows than sequences, what the others once held does not matter."""
    backend, short = engine(ahead=True), queries("beams")[-3:]
    long = [replace(each, max_new_tokens=70) for each in queries("beams")[:4]]
    if is_reset:
        backend.admit([Job(each) for each in long])
        for _ in range(68):
            backend.step()
        backend.reset()
    else:
        answers(backend, long)
    assert answers(backend, short) == expected("beams")[-3:]


def test_one_that_has_ended_unnoticed_is_not_parked() -> None:
    """It would be asked for its tokens after a step of other beams."""
    backend, [asked] = engine(ahead=True), queries("greedy")[1:2]
    job = Job(asked)
    backend.admit([job])
    for _ in range(LENGTHS[1]):
        assert backend.step() == []
    assert not backend.suspend(job)
    assert backend.step() == [(job, expected("greedy")[1])]
