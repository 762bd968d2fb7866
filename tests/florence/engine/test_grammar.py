"""Constrained decoding: complete boxes with ordered corners, and nothing else changed."""

import collections.abc
import random
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from deployments.demo.scenes import draw_scene
from deployments.florence.model import Model
from deployments.florence.open import open_engine
from deployments.florence.sequence import Grammar, Sequence, Tokens
from deployments.florence.tasks import TASKS, no_words
from deployments.images.decode import to_pixels
from deployments.settings import InferenceSettings, ModelSettings
from tests.florence import sequences
from tests.florence.engine.checkpoints import UNEVEN, random_checkpoint

MAX_NEW_TOKENS = 60
WILDEST = 9  # of the seeds from 6 to 19, with the demo's tokenizer


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model with random weights, which breaks every rule that it can."""
    folder: Path = tmp_path_factory.mktemp("wild") / "checkpoint"
    kind = replace(UNEVEN, seed=WILDEST)
    return Model(ModelSettings(path=str(random_checkpoint(kind, folder)), device="cpu"))


@pytest.fixture(scope="module")
def demo() -> Model:
    """The demo checkpoint, which has learned what a box is."""
    return Model(ModelSettings(path="demo", device="cpu"))


def about_scenes(model: Model, num: int) -> list[Sequence]:
    """Sequences about scenes, a task each in turn, with the task's grammar."""
    scenes = [draw_scene(random.Random(seed), (256, 256)).image for seed in range(num)]
    size, resample = model.checkpoint.image_size, model.checkpoint.resample
    tasks = [task for task in TASKS.values() if task.words is no_words]
    return [
        Sequence(
            to_pixels(scene, size, resample),
            model.checkpoint.prompt(task.sentence),
            grammar=task.grammar,
        )
        for scene, task in zip(scenes, tasks * num, strict=False)
    ]


def answers(
    model: Model, given: collections.abc.Sequence[Sequence], *, constrained: bool, beams: int
) -> list[Tokens]:
    """The answers of an engine to all sequences."""
    settings = InferenceSettings(
        constrained=constrained, num_beams=beams, max_new_tokens=MAX_NEW_TOKENS
    )
    longest = max(len(each.prompt) for each in given)
    return sequences.answers(open_engine(model, settings, longest), given)


def boxes(model: Model, tokens: Tokens) -> list[list[int]]:
    """The unbroken runs of locations, as bins."""
    bins = model.checkpoint.vocabulary.bins
    runs = groupby(tokens, bins.__contains__)
    return [[bins[id_] for id_ in ids] for located, ids in runs if located]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_every_box_is_complete_and_its_corners_are_in_order(wild: Model, beams: int) -> None:
    """Only the last may be cut off, by the longest answer; without the grammar many break."""
    given = about_scenes(wild, 8)
    free = answers(wild, given, constrained=False, beams=beams)
    held = answers(wild, given, constrained=True, beams=beams)
    asked = [n for n, each in enumerate(given) if each.grammar != Grammar.FREE]
    assert any(broken(wild, free[n]) for n in asked)
    assert not any(broken(wild, held[n]) for n in asked)


def broken(model: Model, tokens: Tokens) -> bool:
    """Whether a box is incomplete or upside down."""
    is_cut = len(tokens) == MAX_NEW_TOKENS + 1
    runs = boxes(model, tokens)
    for number, run_ in enumerate(runs):
        is_last = is_cut and number == len(runs) - 1
        complete = len(run_) - len(run_) % 4
        if complete < len(run_) and not is_last:
            return True
        corners = [run_[i : i + 4] for i in range(0, complete, 4)]
        if any((x1 >= x2 and x1 < 999) or (y1 >= y2 and y1 < 999) for x1, y1, x2, y2 in corners):
            return True
    return False


def test_proposals_are_nothing_but_boxes(wild: Model) -> None:
    """All tokens between the first and the last are locations."""
    given = [replace(each, grammar=Grammar.BOXES) for each in about_scenes(wild, 8)]
    for tokens in answers(wild, given, constrained=True, beams=1):
        inner = wild.checkpoint.vocabulary.trim(tokens)
        assert all(id_ in wild.checkpoint.vocabulary.bins for id_ in inner)


def test_a_sequence_without_a_grammar_is_free(wild: Model) -> None:
    """Its tokens do not change next to sequences with a grammar."""
    given = about_scenes(wild, 8)
    free = answers(wild, given, constrained=False, beams=3)
    held = answers(wild, given, constrained=True, beams=3)
    kept = [n for n, each in enumerate(given) if each.grammar == Grammar.FREE]
    assert kept
    assert [free[n] for n in kept] == [held[n] for n in kept]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_what_a_trained_model_says_does_not_change(demo: Model, beams: int) -> None:
    """The grammar excludes only tokens that it would not choose."""
    given = about_scenes(demo, 8)
    free = answers(demo, given, constrained=False, beams=beams)
    assert answers(demo, given, constrained=True, beams=beams) == free
