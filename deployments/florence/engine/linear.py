"""Matrix products, by the faster of the libraries that torch brings along.

On a CPU without Intel's name torch's default takes a slow path: oneDNN, which torch ships as well,
is more than twice as fast for many rows, and for the few rows of a decoding step when the weights
lie in its own order (docs/benchmarks.md).
Its operations are those that torch's own compiler emits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

FEWEST_ROWS = 4  # below it, starting oneDNN costs more than it saves

_ops: Any = torch.ops.mkldnn
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(_ops, "_linear_pointwise")


@dataclass(frozen=True)
class Linear:
    """A product with `weight` (out, in) transposed, plus `bias` (out).

    A packed weight lies in oneDNN's order, which only oneDNN can read.
    """

    weight: Tensor
    bias: Tensor | None
    is_packed: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        if self.is_packed:
            return onednn(x, self.weight, self.bias)
        return linear(x, self.weight, self.bias)

    def packed(self) -> "Linear":
        """The same, faster for few rows; whoever drops the plain weights has them once."""
        if not _HAS_ONEDNN or not self.weight.is_cpu or self.weight.dtype != torch.float32:
            return self
        return Linear(_ops._reorder_linear_weight(self.weight), self.bias, is_packed=True)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` (…, in) times `weight` (out, in) transposed, plus `bias` (out)."""
    suits = x.is_cpu and x.dtype == torch.float32  # not every CPU has it for half precision
    if _HAS_ONEDNN and suits and x.numel() >= FEWEST_ROWS * x.shape[-1]:
        return onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same by oneDNN."""
    product: Tensor = _ops._linear_pointwise(x, weight, bias, "none", [], "")
    return product
