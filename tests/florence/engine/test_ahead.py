"""A step that is launched before the last one is known: what a GPU does, here on a CPU.

Then a step has as many places and positions as a recorded one, also such as hold no sequence any
more, and a sequence that has ended stays in the batch for one step more.
"""

import random
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from deployments.florence.engine.build import build
from deployments.florence.engine.engine import Engine, EngineConfig
from deployments.florence.model import Model
from deployments.florence.sequence import Sequence, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import ModelSettings
from tests.florence.engine.checkpoints import UNEVEN, random_checkpoint
from tests.florence.sequences import fresh

pytestmark = pytest.mark.slow

LONGEST = 100  # two sizes of a recorded step
LENGTHS = (90, 5, 70, 3, 6, 9, 4)
BEAMS = {"greedy": (1,), "beams": (3,), "mixed": (1, 3, 3, 1, 2)}
PREEMPTED = 0.2  # share of the steps after which one is preempted


@cache
def model() -> Model:
    """Random weights, whose scores are never nearly equal."""
    folder = Path(tempfile.mkdtemp()) / "checkpoint"
    return Model(ModelSettings(path=str(random_checkpoint(UNEVEN, folder)), device="cpu"))


def engine(ahead: bool) -> Engine:
    """Four at a time; no answer ends before its own limit."""
    found = model()
    config = EngineConfig(
        max_batch_size=4,
        prefill_batch_size=2,
        num_beams=3,
        max_new_tokens=LONGEST,
        max_text_tokens=24,
        min_new_tokens=LONGEST,
        launch_ahead=ahead,
    )
    return build(found.florence, found.inputs, found.rules(), config, found.checkpoint.image_size)


def sequences(name: str) -> list[Sequence]:
    """Noise, the tasks in turn, and answers of very different lengths."""
    beams, noise, checkpoint = BEAMS[name], np.random.default_rng(0), model().checkpoint
    prompts = [checkpoint.prompt(task.sentence) for task in TASKS.values()]
    width, height = checkpoint.image_size
    return [
        Sequence(
            noise.integers(0, 256, (height, width, 3), np.uint8),
            prompts[i % len(prompts)],
            num_beams=beams[i % len(beams)],
            max_new_tokens=length,
        )
        for i, length in enumerate(LENGTHS)
    ]


def answers(backend: Engine, given: Iterable[Sequence], preempted: float = 0.0) -> list[Tokens]:
    """The tokens of each, when one begins in each step as long as there is a place."""
    batch = fresh(given)
    chance, waiting, ended = random.Random(0), list(batch), list[Sequence]()
    while len(ended) < len(batch):
        running = [each for each in batch if each not in waiting and each not in ended]
        if running and chance.random() < preempted:
            chosen = chance.choice(running)
            if backend.preempt(chosen):
                waiting.append(chosen)
                running.remove(chosen)
        if waiting and len(running) < backend.max_batch_size:
            backend.add([waiting.pop(0)])
        ended += backend.step()
    return [each.tokens for each in batch]


@cache
def expected(name: str) -> list[Tokens]:
    """The answers of the engine when it reads each result before the next step."""
    return answers(engine(ahead=False), sequences(name))


@pytest.mark.parametrize("preempted", [0.0, PREEMPTED], ids=["at a stretch", "preempted"])
@pytest.mark.parametrize("name", BEAMS)
def test_the_same_answers(name: str, preempted: float) -> None:
    """Whatever else is in the batch, and however long the ones before were."""
    assert answers(engine(ahead=True), sequences(name), preempted) == expected(name)


def test_lengths() -> None:
    """The answers above are as long as they were meant to be."""
    assert tuple(len(answer) - 1 for answer in expected("mixed")) == LENGTHS


@pytest.mark.parametrize("is_reset", [False, True], ids=["ended", "reset"])
def test_places_that_were_long(is_reset: bool) -> None:
    """Where a step has more places than sequences, what the others once held does not matter."""
    backend, short = engine(ahead=True), sequences("beams")[-3:]
    long = [replace(each, max_new_tokens=70) for each in sequences("beams")[:4]]
    if is_reset:
        backend.add(fresh(long))
        for _ in range(68):
            backend.step()
        backend.reset()
    else:
        answers(backend, long)
    assert answers(backend, short) == expected("beams")[-3:]


def test_one_that_has_ended_unnoticed_is_not_preempted() -> None:
    """It would be asked for its tokens after a step of other beams."""
    backend, [asked] = engine(ahead=True), sequences("greedy")[1:2]
    backend.add([asked])
    for _ in range(LENGTHS[1]):
        assert backend.step() == []
    assert not backend.preempt(asked)
    assert backend.step() == [asked]
    assert asked.tokens == expected("greedy")[1]
