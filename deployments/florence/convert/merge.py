"""Merges an adapter into the weights of its base, in float32."""

from pathlib import Path

import torch
from torch import Tensor

from deployments.florence.adapter_files import (
    EMBEDDING,
    HEAD,
    Adapter,
    LowRank,
    check_copies,
    read_adapter,
)
from deployments.florence.convert.source import State, read_adapter_tensors
from deployments.florence.tensor_files import Floats, Header


def open_adapter(folder: Path, state: State) -> Adapter:
    """The adapter in `folder`, for weights of native names.

    Raises:
        SetupError: it is broken, or does not fit them.
    """
    base = {name: Header(tuple(each.shape), "F32") for name, each in state.items()}
    adapter = read_adapter(folder, base, read_adapter_tensors(folder))

    def weight(module: str) -> Floats:
        values: Floats = weight_of(state, module).float().numpy()
        return values

    check_copies(adapter, weight)
    return adapter


def weight_of(state: State, module: str) -> Tensor:
    """The weight of a module; a tied head has the embedding's."""
    name = f"{module}.weight"
    return state[f"{EMBEDDING}.weight" if module == HEAD and name not in state else name]


def merge(adapter: Adapter, state: State) -> None:
    """Put `adapter` into `state`. A head that was tied is one of its own afterwards."""
    merged = {
        name: merged_weight(weight_of(state, name), each) for name, each in adapter.layers.items()
    }
    state.update({f"{name}.weight": weight for name, weight in merged.items()})


def merged_weight(weight: Tensor, layer: LowRank) -> Tensor:
    """`weight` (out, in) with `layer` added to it, and in DoRA rows of the lengths it says."""
    up, down = torch.from_numpy(layer.up), torch.from_numpy(layer.down)
    total: Tensor = weight.float() + layer.scale * (up @ down)
    if layer.magnitude is None:
        return total
    lengths: Tensor = torch.linalg.vector_norm(total, dim=1)
    factors: Tensor = torch.from_numpy(layer.magnitude) / lengths
    return total * factors[:, None]
