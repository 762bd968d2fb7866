"""Queries as the encoder reads them: normalised as by the library, padded, masked."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from deployments.florence.engine.inputs import Inputs
from deployments.settings import DEMO_CHECKPOINT
from tests.florence.engine.pool import Pool

PAD = 1
IMAGE = [9, 9]


def inputs(num_words: int | None = None) -> Inputs:
    """Two tokens for an image."""
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.1, 0.3])
    return Inputs(mean, std, len(IMAGE), PAD, num_words, torch.float32)


def test_images_are_normalised_as_by_the_library(demo: Pool) -> None:
    """What transformers' processor would have shown, with the channels last."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    pixels = [query.pixels for query in demo.queries[:2]]
    pictures = [Image.fromarray(each) for each in pixels]
    theirs = processor(text=["<OD>"] * 2, images=pictures, return_tensors="pt")["pixel_values"]
    model = demo.model
    ours = Inputs(model.mean, model.std, 0, PAD, None, torch.float32).images(pixels)
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), theirs, atol=1e-5, rtol=0)


def test_images_may_be_read_only() -> None:
    """As they come out of Ray's object store; torch would warn of sharing such memory."""
    pixels = np.full((4, 6, 3), 255, np.uint8)
    pixels.flags.writeable = False
    images = inputs().images([pixels, pixels])
    assert images.shape == (2, 4, 6, 3)
    torch.testing.assert_close(images[1, 2, 3], torch.tensor([2.5, 6.0, 0.7 / 0.3]))


@pytest.mark.parametrize(("num_words", "width"), [(None, 3), (5, 5)])
def test_prompts_are_padded_on_the_right_and_masked(num_words: int | None, width: int) -> None:
    """To the longest, or to a fixed length; the image's place is no part of the words."""
    words, mask = inputs(num_words).words([[*IMAGE, 5, 6, 7], [*IMAGE, 8]])
    assert words.tolist() == [[5, 6, 7, *[PAD] * (width - 3)], [8, *[PAD] * (width - 1)]]
    assert mask.shape == (2, 1, 1, len(IMAGE) + width)
    seen = (mask == 0)[:, 0, 0].sum(dim=1)
    assert seen.tolist() == [5, 3]
    assert set(mask.flatten().tolist()) == {0.0, float("-inf")}
