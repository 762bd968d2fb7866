"""The vision tower computes what transformers' does, with the channels last."""

import pytest
import torch
from torch import Tensor

from deployments.florence.engine.vision import VisionTower
from tests.florence.engine.pool import Pool

NEAR = 5e-5  # image tokens come from a layer norm: they are about 1


def both(pool: Pool, images: Tensor) -> tuple[Tensor, Tensor]:
    """Image tokens of normalised images (B, 3, H, W): ours and transformers'."""
    florence = pool.model.florence.model
    with torch.inference_mode():
        ours = VisionTower(florence)(images.permute(0, 2, 3, 1))
        return ours, florence.get_image_features(images).pooler_output


@pytest.mark.slow
def test_image_tokens_are_the_librarys(pool: Pool) -> None:
    """For images of the checkpoint's size, some at a time."""
    ours, theirs = both(pool, pool.model.normalised([each.pixels for each in pool.sequences]))
    assert ours.shape[1] == pool.model.checkpoint.num_image_tokens
    torch.testing.assert_close(ours, theirs, atol=NEAR, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (64, 136), (72, 56)])
def test_other_sizes(pool: Pool, size: tuple[int, int]) -> None:
    """Also where windows reach beyond the edge, and where the image is smaller than one."""
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    ours, theirs = both(pool, images)
    torch.testing.assert_close(ours, theirs, atol=NEAR, rtol=0)


def test_windows_that_reach_beyond_the_edge_are_among_them(uneven: Pool) -> None:
    """28 positions in windows of 6."""
    width, _ = uneven.model.checkpoint.image_size
    vision = uneven.model.florence.config.vision_config
    assert width // vision.patch_stride[0] % vision.window_size
