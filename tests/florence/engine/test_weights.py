"""Weights are laid out anew, not copied, and transformers' modules go on with them."""

import torch
from torch import Tensor, nn

from deployments.florence.engine.weights import fuse, linear_of
from deployments.florence.generate import Generate
from deployments.settings import InferenceSettings
from tests.florence.engine.pool import Pool, Way


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
    """The modules hold views, and say what they said before."""
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


def test_generate_goes_on_over_the_same_model(pool: Pool) -> None:
    """Its answers beside an engine are those without."""
    pool.engine(Way(), 3, num_slots=2, micro_batch=1)
    generate = Generate(pool.model, InferenceSettings(max_new_tokens=Way().max_new_tokens))
    expected = [pool.answer(number, Way(), 3).tokens for number in range(3)]
    assert [generate.answers([query])[0] for query in pool.queries[:3]] == expected
