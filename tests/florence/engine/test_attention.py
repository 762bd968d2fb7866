"""Attention by plain products is torch's own attention, in every layout that a step reads."""

import pytest
import torch
from torch.nn import functional

from deployments.florence.engine.attention import attend

ROWS, HEADS, WIDTH, ROOM = 3, 4, 8, 20


@pytest.mark.parametrize("num_lanes", [1, 3])
@pytest.mark.parametrize("num_positions", [1, 7, ROOM])
@pytest.mark.parametrize("stride", [1, 2])
def test_products_are_the_librarys_attention(
    num_lanes: int, num_positions: int, stride: int
) -> None:
    """For the first rows and positions of a larger memory, every one or every other."""
    torch.manual_seed(num_positions)
    query = torch.randn(ROWS, num_lanes, HEADS * WIDTH)
    whole = torch.randn(2, ROWS + 2, HEADS, ROOM * stride, WIDTH)
    memory = whole[:, :ROWS, :, : num_positions * stride : stride]
    mask = torch.zeros(ROWS, 1, num_lanes, num_positions)
    mask[..., 1:].masked_fill_(torch.rand(mask[..., 1:].shape) < 0.5, float("-inf"))

    heads = query.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)
    keys, values = memory.unbind()
    expected = functional.scaled_dot_product_attention(heads, keys, values, attn_mask=mask)
    found = attend(query, memory, mask)
    assert torch.allclose(found, expected.transpose(1, 2).flatten(2), atol=1e-5)


def test_one_mask_serves_all_lanes() -> None:
    """As that of the image and the prompt does."""
    query, memory = torch.randn(ROWS, 3, HEADS * WIDTH), torch.randn(2, ROWS, HEADS, 5, WIDTH)
    mask = torch.zeros(ROWS, 1, 1, 5)
    mask[:, ..., 3:] = float("-inf")
    assert torch.allclose(
        attend(query, memory, mask),
        attend(query, memory[..., :3, :], mask[..., :3].expand(-1, -1, 3, -1)),
        atol=1e-6,
    )
