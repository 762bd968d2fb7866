"""The demo checkpoint through the service's own path: exact, obedient, clear when it cannot."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from deployments.demo.scenes import draw_scene
from deployments.errors import SetupError
from deployments.florence.model import Model, device, dtype, options
from deployments.florence.run import Query, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings, ModelSettings

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@cache
def model(**generation: Any) -> Model:
    """The demo checkpoint in fp32 on the CPU."""
    return Model(demo(), InferenceSettings(**generation))


def demo(**fields: Any) -> ModelSettings:
    """Settings for the demo checkpoint."""
    return ModelSettings(**{"path": "demo", "device": "cpu", "dtype": "float32"} | fields)


def scene(seed: int) -> Image.Image:
    """A drawn scene at the model's size."""
    drawn = draw_scene(random.Random(seed), (320, 240)).image
    return drawn.resize((128, 128), Image.Resampling.BICUBIC)


def query(seed: int, path: str) -> Query:
    """A task about a scene."""
    prompt = model().checkpoint.prompt(TASKS[path].sentence)
    return Query(np.asarray(scene(seed)), prompt)


def mixed_batch() -> list[Query]:
    """Prompts of different lengths about different scenes."""
    return [query(seed, path) for seed in (1, 2) for path in TASKS]


@pytest.mark.parametrize("num_beams", [None, 1])
def test_a_batch_says_what_each_says_alone(num_beams: int | None) -> None:
    """In fp32 the tokens of a mixed batch are exactly those of its requests one by one."""
    batch = mixed_batch()
    assert len({len(each.prompt) for each in batch}) > 1
    alone = [model(num_beams=num_beams).generate([each])[0] for each in batch]
    assert alone == model(num_beams=num_beams).generate(batch)


def test_answers_are_the_librarys() -> None:
    """Image by image, the library's own processor and `generate` say the same."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    for path in ("region-proposal", "caption"):
        inputs = processor(text=TASKS[path].marker, images=scene(3), return_tensors="pt")
        with torch.inference_mode():
            rows = model()._florence.generate(**inputs, max_new_tokens=511)
        assert tuple(rows[0].tolist()) == model().generate([query(3, path)])[0]


def test_pixels_are_normalised_as_by_the_library() -> None:
    """The vision tower sees what the library's processor would have shown it."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    images = [scene(seed) for seed in (1, 2)]
    expected = processor(text=["<OD>"] * 2, images=images, return_tensors="pt")["pixel_values"]
    ours = model()._normalise([np.asarray(image) for image in images])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_prompts_are_padded_on_the_right_and_masked() -> None:
    """A short prompt in a batch keeps its ids; the mask hides what was added."""
    ids, mask = model()._pad([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_answers_have_no_padding() -> None:
    """The shorter answers of a batch are not filled up."""
    answers = model().generate(mixed_batch())
    assert len({len(answer) for answer in answers}) > 1
    assert all(model().checkpoint.vocabulary.id("<pad>") not in answer for answer in answers)


def new_tokens(answer: Tokens) -> int:
    """Tokens beyond the start token."""
    return len(answer) - 1


def test_the_longest_answer_is_obeyed() -> None:
    """No answer has more new tokens than the setting."""
    [answer] = model(max_new_tokens=5).generate([query(1, "object-detection")])
    assert new_tokens(answer) == 5


def test_the_shortest_answer_is_obeyed() -> None:
    """For benchmarks of equal length every answer can be made equally long."""
    answers = model(min_new_tokens=60, max_new_tokens=60, num_beams=1).generate(mixed_batch())
    assert {new_tokens(answer) for answer in answers} == {60}


def test_twenty_tokens_are_not_the_end() -> None:
    """The default length is far beyond the library's own twenty."""
    [answer] = model().generate([query(9, "dense-region-caption")])
    assert model()._options["max_new_tokens"] == 511
    assert answer[-1] == model().checkpoint.vocabulary.id("</s>")


class Caller:
    """Waits for answers and leaves at a given step; counts how often each row is asked about."""

    def __init__(self, leaves_at: dict[int, int]) -> None:
        self.leaves_at = leaves_at
        self.steps: Counter[int] = Counter()

    def __call__(self, number: int) -> bool:
        """Whether it still waits for the row."""
        self.steps[number] += 1
        return self.steps[number] < self.leaves_at.get(number, 10_000)


@pytest.mark.parametrize("num_beams", [None, 1])
def test_a_batch_that_nobody_wants_ends_at_once(num_beams: int | None) -> None:
    """A long generation stops at the step at which the last row is not wanted any more."""
    long = model(num_beams=num_beams, min_new_tokens=500)
    caller = Caller({0: 3, 1: 7})
    short = long.generate([query(seed, "dense-region-caption") for seed in (1, 2)], caller)
    assert caller.steps == {0: 7, 1: 7}
    assert max(map(new_tokens, short)) <= 7


@pytest.mark.parametrize("num_beams", [None, 1])
@pytest.mark.parametrize("left", [0, 1, 2])
def test_the_batch_mates_of_who_leaves_say_the_same(num_beams: int | None, left: int) -> None:
    """Their tokens are exactly those of a batch in which everybody stays."""
    batch = [query(seed, "object-detection") for seed in (1, 2, 3)]
    undisturbed = model(num_beams=num_beams).generate(batch)
    disturbed = model(num_beams=num_beams).generate(batch, Caller({left: 4}))
    assert new_tokens(disturbed[left]) < new_tokens(undisturbed[left])
    del undisturbed[left], disturbed[left]
    assert undisturbed == disturbed


@pytest.mark.parametrize("num_beams", [None, 1])
def test_nobody_waits_for_a_row_that_is_not_wanted(num_beams: int | None) -> None:
    """A batch takes no more steps than its longest wanted row."""
    batch = [query(2, "region-proposal"), query(9, "dense-region-caption")]
    alone, together, left = Caller({}), Caller({}), Caller({1: 2})
    model(num_beams=num_beams).generate(batch[:1], alone)
    model(num_beams=num_beams).generate(batch, together)
    model(num_beams=num_beams).generate(batch, left)
    assert alone.steps[0] == left.steps[0] < together.steps[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"max_new_tokens": 511, "min_new_tokens": 0, "do_sample": False}),
        (
            {"num_beams": 1, "max_new_tokens": 9, "min_new_tokens": 20},
            {
                "max_new_tokens": 9,
                "min_new_tokens": 9,
                "do_sample": False,
                "num_beams": 1,
                "early_stopping": False,
            },
        ),
        (
            {"num_beams": 5},
            {"max_new_tokens": 511, "min_new_tokens": 0, "do_sample": False, "num_beams": 5},
        ),
    ],
)
def test_settings_reach_the_search(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    """The checkpoint's own search is changed only by what is set, within what it can do."""
    assert expected == options(model().checkpoint, InferenceSettings(**settings))


def test_beams_are_the_checkpoints_own_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`num_beams` reaches `generate` when it is given, and only then."""
    asked: list[Any] = []

    def spy(loaded: Model) -> Callable[..., Any]:
        generate = loaded._florence.generate

        def spied(**given: Any) -> Any:
            asked.append(given.get("num_beams"))
            return generate(**given)

        return spied

    for loaded in (model(), model(num_beams=1)):
        with monkeypatch.context() as patch:
            patch.setattr(loaded._florence, "generate", spy(loaded))
            loaded.generate([query(1, "caption")])
    assert asked == [None, 1]
    assert model()._florence.generation_config.num_beams == 3


def test_warm_up_leaves_no_trace() -> None:
    """Answers after a warm-up are those before it, though it generates a few tokens only."""
    before = model().generate([query(1, "caption")])
    model().warm_up(2, model().checkpoint.prompt(TASKS["caption"].sentence))
    assert before == model().generate([query(1, "caption")])


def refusal(settings: ModelSettings) -> str:
    """Why no model is made, in one line."""
    with pytest.raises(SetupError) as refused:
        Model(settings, InferenceSettings())
    line = str(refused.value)
    assert len(line.splitlines()) == 1
    return line


def copied(folder: Path, *names: str) -> Path:
    """The demo checkpoint without the files of these names."""
    shutil.copytree(DEMO_CHECKPOINT, folder, ignore=shutil.ignore_patterns(*names))
    return folder


def test_missing_weights_are_named(tmp_path: Path) -> None:
    """A checkpoint without weights is refused, not filled with random numbers."""
    folder = copied(tmp_path / "checkpoint", "*.safetensors")
    assert f"could not load the weights in {folder}" in refusal(demo(path=str(folder)))


def test_broken_weights_are_named(tmp_path: Path) -> None:
    """A download that was cut short is one line."""
    folder = copied(tmp_path / "checkpoint")
    (folder / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    assert f"could not load the weights in {folder}" in refusal(demo(path=str(folder)))


@without_gpu
def test_a_missing_gpu_is_named() -> None:
    """Who asks for a GPU is not given a CPU."""
    assert "no CUDA device is visible" in refusal(demo(device="cuda"))


def test_ids_that_need_remote_code_are_refused() -> None:
    """The line names the id that works."""
    line = refusal(demo(path="microsoft/Florence-2-base"))
    assert "florence-community/Florence-2-base" in line


@pytest.mark.parametrize(
    ("name", "on", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.float16),
        ("bfloat16", "cpu", torch.bfloat16),
    ],
)
def test_precision_follows_the_device(name: str, on: str, expected: torch.dtype) -> None:
    """`auto` is what is fast on the device without changing the answers."""
    assert expected == dtype(name, torch.device(on))


@without_gpu
def test_the_device_is_found() -> None:
    """`auto` takes the CPU when there is nothing else."""
    assert device("auto") == device("cpu") == torch.device("cpu")
