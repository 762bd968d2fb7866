"""The layers over transformers' weights: products, norms, feed-forward nets, attention to a cache.

Weights are taken from transformers' modules, not copied. Where several projections read the same
input they are laid into one matrix, and the modules' own parameters become views of it, so each
weight exists once.

On a CPU oneDNN, which torch ships, computes the products that are larger than one row's. A product
of a few rows is computed the other way around, weights times inputs: oneDNN then reads the weights
as they lie, in the time that it takes with weights in its own order, of which there would be a
second copy (figures in docs/benchmarks.md). Its operations are those that torch's own compiler
emits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.florence.engine.low_rank import AdapterProduct, product_of

FEW_INPUTS = 32  # up to which the weights come first in a product
MOST_HIDDEN = 2**23  # values between two products that a CPU's cache may hold
PART_HIDDEN = 2**20  # of them in a part, where there are more

_ops: Any = torch.ops.mkldnn
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(_ops, "_linear_pointwise")
ONEDNN_TYPES = [torch.float32] if _HAS_ONEDNN else []
if _HAS_ONEDNN and _ops._is_mkldnn_bf16_supported():  # not emulated
    ONEDNN_TYPES.append(torch.bfloat16)


@dataclass(frozen=True)
class Linear:
    """A product with `weight` (out, in) transposed, plus `bias` (out), and what adapters add."""

    weight: Tensor
    bias: Tensor | None
    low_rank: AdapterProduct | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        product = linear(x, self.weight, self.bias)
        return product if self.low_rank is None else add_low_rank(product, x, self.low_rank)


@dataclass(frozen=True)
class Norm:
    """A layer norm over the last dimension."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class FeedForward:
    """Two products with a GELU between them."""

    up: Linear
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        """(…, d) → (…, d)."""
        hidden = len(self.up.weight)
        if not x.is_cpu or x.numel() // x.shape[-1] * hidden <= MOST_HIDDEN or self._has_adapters:
            return self._part(x)
        parts = x.flatten(0, -2).split(PART_HIDDEN // hidden)
        return torch.cat([self._part(part) for part in parts]).view(x.shape)

    @property
    def _has_adapters(self) -> bool:
        """Whether its rows must stay whole sequences."""
        return self.up.low_rank is not None or self.down.low_rank is not None

    def _part(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x)))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` (…, in) times `weight` (out, in) transposed, plus `bias` (out)."""
    num_inputs = x.numel() // x.shape[-1]
    if num_inputs == 1 or not x.is_cpu or x.dtype not in ONEDNN_TYPES:
        return functional.linear(x, weight, bias)
    if num_inputs > FEW_INPUTS:
        return onednn(x, weight, bias)
    product = onednn(weight, x.reshape(num_inputs, -1)).T.contiguous()
    if bias is not None:
        product += bias
    return product.view(*x.shape[:-1], -1)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by oneDNN."""
    product: Tensor = _ops._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def add_low_rank(product: Tensor, x: Tensor, low_rank: AdapterProduct) -> Tensor:
    """Add to `product` (…, out) what the adapters of the pass under way make of `x` (…, in).

    Both hold as many rows of each of the pass's sequences, in the order of the sequences.
    """
    stack = low_rank.stack()
    if stack is None:
        return product
    # These products are too small for oneDNN, whose start would cost more than they do.
    hidden = functional.linear(x, stack.down)
    is_foreign = low_rank.selection.is_foreign(stack)  # (n, 1, R)
    own = hidden.reshape(len(is_foreign), -1, hidden.shape[-1]).masked_fill(is_foreign, 0.0)
    own, sums = own.flatten(0, 1), product.view(-1, product.shape[-1])
    for addition in stack.additions:
        sums[:, addition.columns].addmm_(own[:, addition.hidden], addition.up.T)
    return product


def attend_in_groups(query: Tensor, groups: Sequence[tuple[slice, Tensor, Tensor]]) -> Tensor:
    """The same as `attend` where some sequences have more positions than others: (n, k, H·w).

    Args:
        groups: the sequences that attend together, all of `query`, their `kv` and their `mask`.
    """
    mixed = [attend(query[rows], kv, mask) for rows, kv, mask in groups]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def attend(query: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
    """Attention of k beams of n sequences (n, k, H·w) to t cached positions: (n, k, H·w).

    Args:
        kv: keys and values (2, n, H, t, w), head by head.
        mask: what is added to the scores: (n, 1, k or 1, t).
    """
    num_sequences, num_beams, width = query.shape
    keys, values = kv.unbind()
    heads = query.unflatten(-1, (keys.shape[1], -1)).transpose(1, 2)
    if query.is_cpu:
        mixed = attend_by_products(heads, keys, values, mask)
    else:
        mixed = functional.scaled_dot_product_attention(heads, keys, values, attn_mask=mask)
    return mixed.transpose(1, 2).reshape(num_sequences, num_beams, width)


def attend_by_products(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention in two products, (n, H, k, w): a CPU's fused kernel is made for many queries.

    With the keys of a head in one piece they take half to four fifths of the time that it takes
    where positions come first (figures in docs/benchmarks.md).
    """
    num_sequences, num_heads, num_beams, width = query.shape
    scores = torch.bmm(query.flatten(0, 1) * width**-0.5, keys.flatten(0, 1).transpose(1, 2))
    scores.view(num_sequences, num_heads, num_beams, -1).add_(mask)
    mixed = torch.bmm(scores.softmax(-1), values.flatten(0, 1))
    return mixed.view(num_sequences, num_heads, num_beams, width)


def linear_of(module: nn.Linear) -> Linear:
    bias = None if module.bias is None else module.bias.detach()
    return Linear(module.weight.detach(), bias, low_rank=product_of([module]))


def norm_of(module: nn.LayerNorm) -> Norm:
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)


def feed_forward_of(layer: Any) -> FeedForward:
    return FeedForward(linear_of(layer.fc1), linear_of(layer.fc2))


@torch.no_grad()
def fuse(modules: Sequence[nn.Linear]) -> Linear:
    """One projection whose output is that of all `modules` side by side.

    The modules go on working: their parameters are views of the fused ones.
    """
    weight = torch.cat([module.weight for module in modules])
    bias = torch.cat([module.bias for module in modules])
    widths = [module.out_features for module in modules]
    parts = zip(modules, weight.split(widths), bias.split(widths), strict=True)
    for module, own_weight, own_bias in parts:
        module.weight = nn.Parameter(own_weight, requires_grad=False)
        module.bias = nn.Parameter(own_bias, requires_grad=False)
    return Linear(weight, bias, low_rank=product_of(modules))
