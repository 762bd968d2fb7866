"""What an engine is made of, before there is one, and how many sequences fit."""

import pytest
import torch

from deployments.florence.engine.batch import BatchShape, DecoderBatch, aligned
from deployments.florence.engine.build import (
    described,
    fitting,
    longest_sequence,
    shape_of,
)
from deployments.florence.engine.engine import EngineConfig
from tests.florence.engine.pool import Pool
from tests.refusal import refusal_of

SHAPE = BatchShape(8, 3, num_positions=65, num_encoded=80, num_layers=2, num_heads=2, head_width=16)


def test_a_batch_is_as_wide_as_the_model(uneven: Pool) -> None:
    """Room for the longest prompt after the image, and for the start token before the answer."""
    config = EngineConfig(
        max_batch_size=5, prefill_batch_size=2, num_beams=4, max_new_tokens=16, max_text_tokens=20
    )
    text = uneven.model.florence.config.text_config
    shape = shape_of(text, uneven.model.checkpoint.num_image_tokens, config)
    assert shape == BatchShape(
        max_batch_size=5,
        num_beams=4,
        num_positions=17,
        num_encoded=64,
        num_layers=3,
        num_heads=5,
        head_width=8,
    )


def test_positions_come_in_sixteens() -> None:
    """And never fewer than are needed."""
    assert [aligned(num) for num in (1, 16, 17, 591)] == [16, 16, 32, 592]


def test_the_longest_sequence(uneven: Pool) -> None:
    """Black, of the model's size, with the longest prompt."""
    longest = longest_sequence(uneven.model.inputs, 20, (112, 80))
    assert longest.pixels.shape == (80, 112, 3)
    assert not longest.pixels.any()
    assert len(longest.prompt) == uneven.model.checkpoint.num_image_tokens + 20


def test_the_log_says_what_was_chosen() -> None:
    """Sequences, their memory, beams, lengths and precision."""
    line = described(BatchShape(32, 3, 1025, 592, 12, 16, 64), torch.float16)
    assert line == (
        "engine: 32 sequences of 180.6 MB, 5.78 GB in all; 3 beams, 1024 tokens, torch.float16"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_sequence_takes_what_is_said(dtype: torch.dtype) -> None:
    """To a few hundred bytes of all the tensors that are really made."""
    batch = DecoderBatch(SHAPE, torch.device("cpu"), dtype)
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    real = sum(tensor.nbytes for tensor in tensors) / SHAPE.max_batch_size
    assert SHAPE.num_bytes(dtype) <= real < 1.05 * SHAPE.num_bytes(dtype) + 1000


@pytest.mark.parametrize(("sequences", "expected"), [(1.0, 1), (2.9, 2), (8.0, 8), (100.0, 8)])
def test_as_many_as_fit(sequences: float, expected: int) -> None:
    """Never more than are wanted."""
    num_bytes = int(sequences * SHAPE.num_bytes(torch.float16))
    assert fitting(SHAPE, torch.float16, num_bytes) == expected


@pytest.mark.parametrize("num_bytes", [-5_000_000_000, 0, 1000])
def test_no_memory_for_one(num_bytes: int) -> None:
    """One line that names the settings to change, and no negative memory."""
    line = refusal_of(fitting, SHAPE, torch.float16, num_bytes)
    assert "0.00 GB are left" in line
    for setting in ("max_new_tokens", "num_beams", "gpu_memory_utilization"):
        assert f"inference.{setting}" in line
