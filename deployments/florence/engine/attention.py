"""Attention of a few new positions to many kept ones, whose keys and values lie head by head.

Shapes: n rows, k lanes of each, H heads of width w, T kept positions.
"""

import torch
from torch import Tensor
from torch.nn import functional


def attend(query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """Queries (n, k, H·w) over keys and values (2, n, H, T, w) → (n, k, H·w).

    `mask` (n, 1, k or 1, T) is added to the scores.
    """
    num_rows, num_lanes, width = query.shape
    keys, values = memory.unbind()
    heads = query.unflatten(-1, (keys.shape[1], -1)).transpose(1, 2)
    if query.is_cpu:
        mixed = multiplied(heads, keys, values, mask)
    else:
        mixed = functional.scaled_dot_product_attention(heads, keys, values, attn_mask=mask)
    return mixed.transpose(1, 2).reshape(num_rows, num_lanes, width)


def multiplied(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention in two products, (n, H, k, w): a CPU's fused kernel is made for many queries.

    With the keys of a head in one piece they take half to four fifths of the time that it takes
    where positions come first (docs/benchmarks.md).
    """
    num_rows, num_heads, num_lanes, width = query.shape
    every = mask.expand(num_rows, num_heads, num_lanes, -1).flatten(0, 1)
    scores = torch.baddbmm(
        every, query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), alpha=width**-0.5
    )
    mixed = torch.bmm(scores.softmax(-1), values.flatten(0, 1))
    return mixed.view(num_rows, num_heads, num_lanes, width)
