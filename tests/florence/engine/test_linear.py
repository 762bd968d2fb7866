"""Matrix products: whichever library computes them, the result is torch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deployments.florence.engine.linear import Linear, linear

SHAPES = [(1, 24), (3, 24), (4, 24), (5, 1, 24), (2, 3, 24), (500, 24), (2, 7, 9, 24)]


def weights(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """24 → 40."""
    return torch.randn(40, 24, dtype=dtype), torch.randn(40, dtype=dtype)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(shape: tuple[int, ...], packed: bool, has_bias: bool) -> None:
    """Few rows and many, of any number of dimensions."""
    x, (weight, bias) = torch.randn(shape), weights()
    plain = Linear(weight, bias if has_bias else None)
    product = plain.packed() if packed else plain
    expected = functional.linear(x, weight, plain.bias)
    torch.testing.assert_close(product(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_rows", [2, 50])
def test_parts_of_larger_tensors(num_rows: int) -> None:
    """Every second row, some of the columns, and columns for rows."""
    weight, bias = weights()
    wide, tall = torch.randn(2 * num_rows, 72), torch.randn(24, num_rows)
    for x in (wide[::2, :24], wide[:, 24:48], tall.T):
        expected = functional.linear(x, weight, bias)
        torch.testing.assert_close(linear(x, weight, bias), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [2, 50])
def test_lower_precision(num_rows: int, dtype: torch.dtype) -> None:
    """A CPU may be asked for it too."""
    weight, bias = weights(dtype)
    x = torch.randn(num_rows, 24, dtype=dtype)
    expected = functional.linear(x.float(), weight.float(), bias.float())
    product = Linear(weight, bias).packed()(x)
    assert product.dtype == dtype
    torch.testing.assert_close(product.float(), expected, atol=0.1, rtol=0.02)


def test_nothing_is_computed_without_a_device() -> None:
    """On the meta device, where shapes are planned."""
    x, weight = torch.empty(9, 24, device="meta"), torch.empty(40, 24, device="meta")
    assert Linear(weight, None).packed()(x).shape == (9, 40)
