"""The layers' weights as the engine multiplies them: taken from transformers' modules, not copied.

Where several projections read the same input they are laid into one matrix,
and the modules' own parameters become views of it, so each weight exists once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.florence.engine.linear import Linear


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
        return self.down(functional.gelu(self.up(x)))

    def packed(self) -> "FeedForward":
        """The same for few rows."""
        return FeedForward(self.up.packed(), self.down.packed())


def linear_of(module: nn.Linear) -> Linear:
    """One projection."""
    return Linear(module.weight.detach(), None if module.bias is None else module.bias.detach())


def norm_of(module: nn.LayerNorm) -> Norm:
    """One layer norm."""
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)


def feed_forward_of(layer: Any) -> FeedForward:
    """The `fc1` and `fc2` of a layer."""
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
    return Linear(weight, bias)
