"""The encoder's input, and images whose tokens are cached."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from deployments.florence.engine.prefill import Inputs
from deployments.florence.image_cache import ImageCache
from deployments.florence.open import open_engine
from deployments.florence.sequence import Sequence, Tokens
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.florence.engine.pool import Pool
from tests.florence.sequences import answers, model, prompt

PAD = 1
IMAGE = [9, 9]


def inputs(num_text_tokens: int | None = None) -> Inputs:
    """Two tokens for an image."""
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.1, 0.3])
    return Inputs(mean, std, len(IMAGE), PAD, num_text_tokens, torch.float32)


def test_images_are_normalised_as_by_the_library(demo: Pool) -> None:
    """What transformers' processor would have shown, with the channels last."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)  # type: ignore[no-untyped-call]
    pixels = [each.pixels for each in demo.sequences[:2]]
    pictures = [Image.fromarray(each) for each in pixels]
    theirs = processor(text=["<OD>"] * 2, images=pictures, return_tensors="pt")["pixel_values"]
    ours = demo.model.inputs.images(pixels)
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), theirs, atol=1e-5, rtol=0)


def test_images_may_be_read_only() -> None:
    """As they come out of Ray's object store; torch would warn of sharing such memory."""
    pixels = np.full((4, 6, 3), 255, np.uint8)
    pixels.flags.writeable = False
    images = inputs().images([pixels, pixels])
    assert images.shape == (2, 4, 6, 3)
    torch.testing.assert_close(images[1, 2, 3], torch.tensor([2.5, 6.0, 0.7 / 0.3]))


@pytest.mark.parametrize(("num_text_tokens", "width"), [(None, 3), (5, 5)])
def test_prompts_are_padded_on_the_right_and_masked(
    num_text_tokens: int | None, width: int
) -> None:
    """To the longest, or to a fixed length; the image's tokens are no part of the text."""
    text, mask = inputs(num_text_tokens).text([[*IMAGE, 5, 6, 7], [*IMAGE, 8]])
    assert text.tolist() == [[5, 6, 7, *[PAD] * (width - 3)], [8, *[PAD] * (width - 1)]]
    assert mask.shape == (2, 1, 1, len(IMAGE) + width)
    seen = (mask == 0)[:, 0, 0].sum(dim=1)
    assert seen.tolist() == [5, 3]
    assert set(mask.flatten().tolist()) == {0.0, float("-inf")}


def about(seed: int, task: str = "region-proposal", key: str | None = None) -> Sequence:
    """A sequence about noise."""
    width, height = model().checkpoint.image_size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Sequence(pixels, prompt(task), image_key=key)


def said(batches: list[list[Sequence]], image_cache: ImageCache[Tensor] | None) -> list[Tokens]:
    """The answers of an engine, one batch after the other."""
    engine = open_engine(model(), InferenceSettings(), 200, image_cache)
    return [tokens for batch in batches for tokens in answers(engine, batch)]


@pytest.mark.slow
def test_a_known_image_gets_the_same_answer() -> None:
    """Also next to a new one, and for another task."""
    first, second = about(1, key="a"), about(2, key="b")
    again = about(1, "caption", key="a")
    batches = [[first], [second, first, again]]
    cache: ImageCache[Tensor] = ImageCache(1_000_000)
    assert said(batches, cache) == said(batches, None)
    assert cache.take_hits() == 2


@pytest.mark.slow
def test_a_cached_image_skips_the_vision_tower() -> None:
    """With the key of another image, the answer is about that image."""
    shown, other = about(1, key="a"), replace(about(2), image_key="a")
    found = said([[shown], [other]], ImageCache(1_000_000))
    assert found[0] == found[1]


@pytest.mark.slow
def test_without_a_key_no_image_is_cached() -> None:
    """The cache stays empty."""
    cache: ImageCache[Tensor] = ImageCache(1_000_000)
    said([[about(1)], [about(1)]], cache)
    assert (cache.num_bytes, cache.take_hits()) == (0, 0)


@pytest.mark.slow
def test_memory_is_bounded_by_whole_images() -> None:
    """A cache for one image holds one."""
    num_bytes = model().checkpoint.num_image_tokens * 128 * 4
    cache: ImageCache[Tensor] = ImageCache(num_bytes)
    said([[about(seed, key=str(seed))] for seed in range(3)], cache)
    assert cache.num_bytes == num_bytes
    assert cache.get("2") is not None
