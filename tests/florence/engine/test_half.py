"""Half precision: boxes that overlap those of `generate`, and the same tokens with CUDA graphs.

bfloat16, which some CPUs multiply themselves, is compared with float32.

On a CPU, and on a GPU where there is one: that is how a GPU runs it.
"""

from functools import cache
from statistics import mean

import pytest
import torch

from deployments.florence.engine.build import build
from deployments.florence.engine.engine import EngineConfig
from deployments.florence.generate_backend import Generate
from deployments.florence.model import Model
from deployments.florence.open import open_engine
from deployments.florence.parsing import ModelAnswer, unlabelled_boxes
from deployments.florence.schemas import BoundingBox
from deployments.florence.sequence import Tokens
from deployments.settings import InferenceSettings
from tests.florence.sequences import answers, demo, prompt, sequence

pytestmark = pytest.mark.slow

LEAST_OVERLAP = 0.98
LEAST_OF_BFLOAT16 = 0.97  # eight bits of a number, against the 24 of fp32
SEQUENCES = [
    sequence(seed, path) for seed in range(7) for path in ("region-proposal", "object-detection")
]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])


@cache
def model(device: str, dtype: str = "float16") -> Model:
    """The demo checkpoint in half precision."""
    return Model(demo(device=device, dtype=dtype))


def boxes(loaded: Model, tokens: Tokens) -> list[BoundingBox]:
    """The boxes of an answer."""
    return unlabelled_boxes(ModelAnswer(tokens, loaded.checkpoint.vocabulary, (320, 240))).bboxes


def overlap(a: BoundingBox, b: BoundingBox) -> float:
    """Intersection over union."""
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (a.w * a.h + b.w * b.h - shared)


@devices
@pytest.mark.parametrize("num_beams", [1, 3])
def test_boxes_are_those_of_generate(device: str, num_beams: int) -> None:
    """In a batch of sixteen, as many as alone and nearly where they are alone."""
    loaded = model(device)
    settings = InferenceSettings(num_beams=num_beams, max_batch_size=16, max_new_tokens=64)
    engine = open_engine(loaded, settings, max(len(each.prompt) for each in SEQUENCES))
    alone = Generate(loaded, settings)
    for each, found in zip(SEQUENCES, answers(engine, SEQUENCES), strict=True):
        [expected] = alone.answers([each])
        pairs = list(zip(boxes(loaded, found), boxes(loaded, expected), strict=True))
        assert pairs
        assert all(overlap(ours, theirs) >= LEAST_OVERLAP for ours, theirs in pairs)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_boxes_in_bfloat16_are_nearly_those_in_float32(num_beams: int) -> None:
    """As many, and on average nearly in their places."""
    settings = InferenceSettings(num_beams=num_beams, max_batch_size=8, max_new_tokens=64)
    longest = max(len(each.prompt) for each in SEQUENCES)
    half = model("cpu", "bfloat16")
    found = answers(open_engine(half, settings, longest), SEQUENCES)
    whole = answers(open_engine(model("cpu", "float32"), settings, longest), SEQUENCES)
    pairs = [
        pair
        for ours, theirs in zip(found, whole, strict=True)
        for pair in zip(boxes(half, ours), boxes(half, theirs), strict=True)
    ]
    assert pairs
    assert mean(overlap(ours, theirs) for ours, theirs in pairs) >= LEAST_OF_BFLOAT16


@gpu
@pytest.mark.parametrize("num_beams", [1, 3])
def test_cuda_graphs_change_no_token(num_beams: int) -> None:
    """A step that is replayed is the step that was launched."""

    def said(cuda_graphs: bool) -> list[Tokens]:
        loaded = model("cuda")
        tokens = loaded.checkpoint.num_image_tokens
        config = EngineConfig(
            max_batch_size=8,
            prefill_batch_size=4,
            num_beams=num_beams,
            max_new_tokens=64,
            max_text_tokens=len(prompt("object-detection")) - tokens,
            cuda_graphs=cuda_graphs,
        )
        image_size = loaded.checkpoint.image_size
        engine = build(loaded.florence, loaded.inputs, loaded.rules(), config, image_size)
        return answers(engine, SEQUENCES)

    assert said(cuda_graphs=True) == said(cuda_graphs=False)
