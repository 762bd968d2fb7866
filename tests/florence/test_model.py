"""The demo checkpoint, loaded: what its files say, and one clear line when it cannot be."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, GenerationConfig

from deployments.errors import SetupError
from deployments.florence.engine.search import GenerationRules
from deployments.florence.model import UNSUPPORTED, Model, device, dtype
from deployments.settings import DEMO_CHECKPOINT, ModelSettings
from tests.florence.sequences import demo, model, scene
from tests.refusal import refusal_of

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_pixels_are_normalised_as_by_the_library() -> None:
    """The vision tower sees what the library's processor would have shown it."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    images = [scene(seed) for seed in (1, 2)]
    expected = processor(text=["<OD>"] * 2, images=images, return_tensors="pt")["pixel_values"]
    ours = model().normalised([np.asarray(image) for image in images])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_prompts_are_padded_on_the_right_and_masked() -> None:
    """A short prompt in a batch keeps its ids; the mask hides what was added."""
    ids, mask = model().padded([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_the_generation_config_is_read_for_the_engine() -> None:
    """Its rules are those of the file, and its beams."""
    assert model().num_beams == 3
    assert model().rules() == GenerationRules(
        start=2,
        pad=1,
        eos=2,
        forced_bos=0,
        forced_eos=2,
        ngram=3,
        early_stopping=False,
        length_penalty=1.5,
    )


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> GenerationConfig:
    """The loaded model's generation config, which the test may change."""
    copy: GenerationConfig = deepcopy(model().florence.generation_config)
    monkeypatch.setattr(model().florence, "generation_config", copy)
    return copy


def test_what_a_generation_config_leaves_out_asks_for_nothing(config: GenerationConfig) -> None:
    """One beam, no forced token, no n-gram, the usual length penalty."""
    config.num_beams = config.forced_bos_token_id = config.forced_eos_token_id = None
    config.no_repeat_ngram_size = config.early_stopping = config.length_penalty = None
    rules = model().rules()
    assert model().num_beams == 1
    assert (rules.forced_bos, rules.forced_eos, rules.ngram) == (None, None, 0)
    assert (rules.early_stopping, rules.length_penalty) == (False, 1.0)


WANTED: dict[str, Any] = {
    "bad_words_ids": [[5]],
    "begin_suppress_tokens": [5],
    "diversity_penalty": 0.5,
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "exponential_decay_length_penalty": [5, 1.5],
    "guidance_scale": 1.5,
    "min_length": 5,
    "num_return_sequences": 2,
    "remove_invalid_values": True,
    "renormalize_logits": True,
    "repetition_penalty": 1.5,
    "sequence_bias": [[[5], 1.5]],
    "suppress_tokens": [5],
    "watermarking_config": {"bias": 1.5},
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_rule_that_the_engine_does_not_know_is_refused(
    config: GenerationConfig, name: str
) -> None:
    """It is not left out in silence: the line names it, its file and two ways out."""
    assert hasattr(config, name)
    setattr(config, name, WANTED[name])
    line = refusal_of(model().rules)
    assert f"does not know {name} of {DEMO_CHECKPOINT / 'generation_config.json'}" in line
    assert "set inference.backend to generate, or take it out" in line


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_rule_that_asks_for_nothing_is_none(config: GenerationConfig, name: str) -> None:
    """A config may spell out the value that does nothing."""
    before = model().rules()
    setattr(config, name, UNSUPPORTED[name])
    assert model().rules() == before


@pytest.mark.parametrize("eos", [[2, 5], [2], None])
def test_there_is_one_last_token(config: GenerationConfig, eos: Any) -> None:
    """The engine looks for one."""
    config.eos_token_id = eos
    with pytest.raises(SetupError, match="eos_token_id"):
        model().rules()


def refusal(settings: ModelSettings) -> str:
    """Why no model is made, in one line."""
    return refusal_of(Model, settings)


def copied(folder: Path, *names: str) -> Path:
    """The demo checkpoint without the files of these names."""
    shutil.copytree(DEMO_CHECKPOINT, folder, ignore=shutil.ignore_patterns(*names))
    return folder


def test_missing_weights_are_named(tmp_path: Path) -> None:
    """A checkpoint without weights is refused, not filled with random numbers."""
    folder = copied(tmp_path / "checkpoint", "*.safetensors")
    assert f"{folder} has no weights" in refusal(demo(path=str(folder)))


def test_broken_weights_are_named(tmp_path: Path) -> None:
    """A download that was cut short is one line."""
    folder = copied(tmp_path / "checkpoint")
    (folder / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    assert f"{folder / 'model.safetensors'} is missing or cut" in refusal(demo(path=str(folder)))


@without_gpu
def test_a_missing_gpu_is_named() -> None:
    """A GPU that is asked for is not replaced by a CPU."""
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
