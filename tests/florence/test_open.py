"""The backend that the settings name: warm, within its limits, and as true as the other."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import SetupError
from deployments.florence.backend import Backend
from deployments.florence.engine.engine import Engine
from deployments.florence.generate_backend import Generate
from deployments.florence.model import Model
from deployments.florence.open import open_backend, with_settings
from deployments.florence.tasks import TASKS
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.florence.sequences import (
    answers,
    demo,
    mixed_batch,
    model,
    new_tokens,
    prompt,
    sequence,
)

pytestmark = pytest.mark.slow

PROMPTS = [prompt(path) for path in TASKS]
both = pytest.mark.parametrize("name", ["engine", "generate"])


def opened(name: str, loaded: Model | None = None, **settings: Any) -> Backend:
    """The backend of this name over the demo checkpoint."""
    chosen = InferenceSettings(backend=name, **settings)
    return open_backend(loaded or model(), chosen, PROMPTS)


def test_the_settings_choose_the_backend() -> None:
    """The engine, unless they say otherwise."""
    assert isinstance(open_backend(model(), InferenceSettings(), PROMPTS), Engine)
    assert isinstance(opened("engine"), Engine)
    assert isinstance(opened("generate"), Generate)


@pytest.mark.parametrize(("ngram", "expected"), [(None, 3), (0, 0), (5, 5)])
def test_the_settings_say_what_may_not_come_twice(ngram: int | None, expected: int) -> None:
    """The checkpoint does where they do not."""
    rules = with_settings(model().rules(), InferenceSettings(no_repeat_ngram_size=ngram))
    assert rules.ngram == expected


@pytest.mark.parametrize(
    ("name", "settings", "most", "together"),
    [
        ("engine", {}, 8, 4),
        ("engine", {"max_batch_size": 3}, 3, 3),
        ("engine", {"max_batch_size": 20, "prefill_batch_size": 1}, 20, 1),
        ("generate", {"max_batch_size": 3, "prefill_batch_size": 1}, 3, 3),
    ],
)
def test_the_settings_say_how_many_at_a_time(
    name: str, settings: dict[str, Any], most: int, together: int
) -> None:
    """And how many begin together, never more than that."""
    backend = opened(name, **settings)
    assert (backend.max_batch_size, backend.prefill_batch_size) == (most, together)


@both
def test_the_longest_answer_is_obeyed(name: str) -> None:
    """No answer has more new tokens than the setting."""
    [answer] = answers(opened(name, max_new_tokens=5), [sequence(1, "object-detection")])
    assert new_tokens(answer) == 5


@both
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_shortest_answer_is_obeyed(name: str, num_beams: int) -> None:
    """For benchmarks of equal length every answer can be made equally long."""
    equal = opened(name, min_new_tokens=40, max_new_tokens=40, num_beams=num_beams)
    batch = [sequence(1, path) for path in TASKS]
    assert {new_tokens(answer) for answer in answers(equal, batch)} == {40}


def test_answers_end_where_the_model_does() -> None:
    """More tokens than the checkpoint has places for are not asked of it."""
    endless = opened("engine", min_new_tokens=5000, max_new_tokens=5000, num_beams=1)
    [answer] = answers(endless, [sequence(1, "caption")])
    assert len(answer) == model().checkpoint.max_positions


@both
def test_a_sequence_may_bound_its_answer(name: str) -> None:
    """Its own number of new tokens counts, up to the deployment's."""
    bounds = (None, 4, 9, 100)
    batch = [sequence(1, "object-detection", max_new_tokens=most) for most in bounds]
    free, *bounded = answers(opened(name, max_new_tokens=12), batch)
    assert [new_tokens(answer) for answer in bounded] == [4, 9, new_tokens(free)]


@both
def test_a_warm_backend_is_empty(name: str) -> None:
    """What was done to warm it up is in no answer, and all places are free."""
    backend = opened(name, max_batch_size=4)
    assert list(backend.step()) == []
    assert answers(backend, mixed_batch()) == answers(backend, mixed_batch())


@pytest.mark.parametrize("num_beams", [None, 1])
def test_both_say_the_same(num_beams: int | None) -> None:
    """Token for token, over mixed tasks, some of which ask for fewer beams than the settings."""
    batch = [*mixed_batch(), *mixed_batch(num_beams=1)]
    if num_beams != 1:
        batch += mixed_batch(num_beams=2)
    expected = answers(opened("generate", num_beams=num_beams, max_batch_size=24), batch)
    for most in (1, 3):
        engine = opened("engine", num_beams=num_beams, max_batch_size=most)
        assert answers(engine, batch) == expected


def test_the_engine_leaves_the_model_as_it_was() -> None:
    """It shares the weights with transformers' classes, which work as before."""
    before = answers(opened("generate"), mixed_batch())
    opened("engine")
    assert answers(opened("generate"), mixed_batch()) == before


def test_a_checkpoint_that_the_engine_does_not_know_is_refused(tmp_path: Path) -> None:
    """The line names the rule and the other backend, which takes it."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(DEMO_CHECKPOINT, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 1.5}))
    tuned = Model(demo(path=str(folder)))
    with pytest.raises(SetupError, match="does not know repetition_penalty") as refused:
        opened("engine", tuned)
    assert "set inference.backend to generate" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert answers(opened("generate", tuned), [sequence(1, "caption")])


def test_constrained_answers_need_the_engine() -> None:
    """A setting that would do nothing is refused, with what to change."""
    with pytest.raises(SetupError, match=r"inference\.constrained") as refused:
        opened("generate", constrained=True)
    assert "set inference.backend to engine" in str(refused.value)
