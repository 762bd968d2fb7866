"""What an engine is made of, before there is one."""

import torch

from deployments.florence.engine.build import Size, aligned, described, longest_query, shape_of
from deployments.florence.engine.engine import Options
from deployments.florence.engine.inputs import Inputs
from deployments.florence.engine.rows import Shape
from tests.florence.engine.pool import Pool


def inputs_of(pool: Pool) -> Inputs:
    """A checkpoint's."""
    model = pool.model
    tokens = model.checkpoint.num_image_tokens
    return Inputs(model.mean, model.std, tokens, model.pad, None, model.dtype)


def test_rows_are_as_wide_as_the_model(uneven: Pool) -> None:
    """Room for the longest prompt beside the image, and for the start token before the answer."""
    options = Options(num_beams=4, max_new_tokens=16)
    text = uneven.model.florence.config.text_config
    num_image_tokens = uneven.model.checkpoint.num_image_tokens
    shape = shape_of(text, num_image_tokens, options, Size(5, num_words=20))
    assert shape == Shape(
        num_rows=5,
        num_lanes=4,
        num_positions=17,
        num_encoded=64,
        num_layers=3,
        num_heads=5,
        head_width=8,
    )


def test_positions_come_in_sixteens() -> None:
    """And never fewer than are needed."""
    assert [aligned(num) for num in (1, 16, 17, 591)] == [16, 16, 32, 592]


def test_the_longest_query(uneven: Pool) -> None:
    """Black, of the model's size, with every word there is room for."""
    query = longest_query(inputs_of(uneven), 20, (112, 80))
    assert query.pixels.shape == (80, 112, 3)
    assert not query.pixels.any()
    assert len(query.prompt) == uneven.model.checkpoint.num_image_tokens + 20


def test_the_log_says_what_was_chosen() -> None:
    """Slots, their memory, beams, lengths and precision."""
    line = described(Shape(32, 3, 1025, 592, 12, 16, 64), torch.float16)
    assert line == (
        "engine: 32 slots of 180.3 MB, 5.77 GB in all; 3 beams, 1024 tokens, torch.float16"
    )
