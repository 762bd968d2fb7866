"""The layers: the result is torch's own, whichever library computes it, and no weight is copied."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.florence.engine.layers import (
    MOST_HIDDEN,
    FeedForward,
    Linear,
    attend,
    attend_in_groups,
    fuse,
    linear,
    linear_of,
)
from deployments.florence.generate_backend import Generate
from deployments.settings import InferenceSettings
from tests.florence.engine.pool import Pool, Way

NUM, HEADS, WIDTH, MOST = 3, 4, 8, 20
SHAPES = [(1, 24), (3, 24), (5, 1, 24), (2, 3, 24), (32, 24), (33, 24), (500, 24), (2, 7, 9, 24)]


def weights(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """24 → 40."""
    return torch.randn(40, 24, dtype=dtype), torch.randn(40, dtype=dtype)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(shape: tuple[int, ...], has_bias: bool) -> None:
    """Few inputs and many, of any number of dimensions."""
    x, (weight, bias) = torch.randn(shape), weights()
    product = Linear(weight, bias if has_bias else None)
    expected = functional.linear(x, weight, product.bias)
    assert product(x).is_contiguous()
    torch.testing.assert_close(product(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_inputs", [2, 50])
def test_parts_of_larger_tensors(num_inputs: int) -> None:
    """Every second row, some of the columns, and a transposed one."""
    weight, bias = weights()
    wide, tall = torch.randn(2 * num_inputs, 72), torch.randn(24, num_inputs)
    for x in (wide[::2, :24], wide[:, 24:48], tall.T):
        expected = functional.linear(x, weight, bias)
        torch.testing.assert_close(linear(x, weight, bias), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_inputs", [2, 50])
def test_lower_precision(num_inputs: int, dtype: torch.dtype) -> None:
    """A CPU may be asked for it too."""
    weight, bias = weights(dtype)
    x = torch.randn(num_inputs, 24, dtype=dtype)
    expected = functional.linear(x.float(), weight.float(), bias.float())
    product = Linear(weight, bias)(x)
    assert product.dtype == dtype
    torch.testing.assert_close(product.float(), expected, atol=0.1, rtol=0.02)


def test_nothing_is_computed_without_a_device() -> None:
    """On the meta device, where shapes are planned."""
    x, weight = torch.empty(9, 24, device="meta"), torch.empty(40, 24, device="meta")
    assert Linear(weight, None)(x).shape == (9, 40)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("num_positions", [1, 7, MOST])
@pytest.mark.parametrize("stride", [1, 2])
def test_products_are_the_librarys_attention(
    num_beams: int, num_positions: int, stride: int
) -> None:
    """For the first sequences and positions of a larger cache, every one or every other."""
    torch.manual_seed(num_positions)
    query = torch.randn(NUM, num_beams, HEADS * WIDTH)
    whole = torch.randn(2, NUM + 2, HEADS, MOST * stride, WIDTH)
    kv = whole[:, :NUM, :, : num_positions * stride : stride]
    mask = torch.zeros(NUM, 1, num_beams, num_positions)
    mask[..., 1:].masked_fill_(torch.rand(mask[..., 1:].shape) < 0.5, float("-inf"))

    heads = query.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)
    keys, values = kv.unbind()
    expected = functional.scaled_dot_product_attention(heads, keys, values, attn_mask=mask)
    found = attend(query, kv, mask)
    assert torch.allclose(found, expected.transpose(1, 2).flatten(2), atol=1e-5)


def test_many_values_between_two_products_come_in_parts() -> None:
    """The last part is smaller than the others; the result is that of all at once."""
    up, down = Linear(torch.randn(4096, 4), torch.randn(4096)), Linear(torch.randn(4, 4096), None)
    x = torch.randn(2, 1100, 4)
    assert len(x.flatten(0, 1)) * 4096 > MOST_HIDDEN
    expected = down(functional.gelu(up(x)))
    torch.testing.assert_close(FeedForward(up, down)(x), expected, atol=1e-3, rtol=1e-5)


def test_groups_attend_as_all_do() -> None:
    """Each to its own positions, beyond which the mask hides all."""
    query, kv = torch.randn(NUM, 3, HEADS * WIDTH), torch.randn(2, NUM, HEADS, MOST, WIDTH)
    mask = torch.zeros(NUM, 1, 3, MOST)
    mask[0, ..., 5:] = mask[1, ..., 7:] = float("-inf")
    groups = [(slice(0, 2), 7), (slice(2, 3), MOST)]
    found = attend_in_groups(
        query, [(rows, kv[:, rows, :, :span], mask[rows, ..., :span]) for rows, span in groups]
    )
    assert torch.allclose(found, attend(query, kv, mask), atol=1e-6)


def test_one_mask_serves_all_beams() -> None:
    """As that of the image and the prompt does."""
    query, kv = torch.randn(NUM, 3, HEADS * WIDTH), torch.randn(2, NUM, HEADS, 5, WIDTH)
    mask = torch.zeros(NUM, 1, 1, 5)
    mask[:, ..., 3:] = float("-inf")
    assert torch.allclose(
        attend(query, kv, mask),
        attend(query, kv[..., :3, :], mask[..., :3].expand(-1, -1, 3, -1)),
        atol=1e-6,
    )


def projections(*widths: int) -> list[nn.Linear]:
    """Some that read the same input, of width 7."""
    return [nn.Linear(7, width) for width in widths]


def num_bytes(tensors: list[Tensor]) -> int:
    """Memory behind the tensors, counted once where it is shared."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def parameters(modules: list[nn.Linear]) -> list[Tensor]:
    """Their weights and biases."""
    return [parameter.detach() for module in modules for parameter in module.parameters()]


def test_one_product_instead_of_several() -> None:
    """Its result is theirs side by side."""
    modules, x = projections(5, 3, 4), torch.randn(2, 6, 7)
    expected = torch.cat([module(x) for module in modules], dim=-1)
    torch.testing.assert_close(fuse(modules)(x), expected)


def test_each_weight_exists_once() -> None:
    """The modules hold views, and compute what they did before."""
    modules, x = projections(5, 3), torch.randn(6, 7)
    before, expected = num_bytes(parameters(modules)), [module(x) for module in modules]
    fused = fuse(modules)
    assert fused.bias is not None
    assert num_bytes([fused.weight, fused.bias, *parameters(modules)]) == before
    torch.testing.assert_close([module(x) for module in modules], expected)
    fused.weight.zero_()
    assert not any(module.weight.any() for module in modules)


def test_fusing_twice_is_fusing_once() -> None:
    """A second engine over the same model."""
    modules = projections(5, 3)
    first, second = fuse(modules), fuse(modules)
    assert torch.equal(first.weight, second.weight)


def test_a_projection_without_bias() -> None:
    """Stays without."""
    module, x = nn.Linear(7, 5, bias=False), torch.randn(6, 7)
    torch.testing.assert_close(linear_of(module)(x), module(x))


@pytest.mark.slow
def test_generate_goes_on_over_the_same_model(pool: Pool) -> None:
    """Its answers with an engine over the same weights are those without."""
    pool.engine(Way(), 3, max_batch_size=2, prefill_batch_size=1)
    generate = Generate(pool.model, InferenceSettings(max_new_tokens=Way().max_new_tokens))
    answers = {number: pool.answer(number, Way(), 3) for number in range(4)}
    clear = {number: answer.tokens for number, answer in answers.items() if answer.is_clear}
    assert clear
    assert {n: generate.answers([pool.sequences[n]])[0] for n in clear} == clear
