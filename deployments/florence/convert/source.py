"""Weights of a checkpoint in any layout that is known, by their native names."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deployments.errors import SetupError
from deployments.florence.adapter_files import OLD_WEIGHTS as OLD_ADAPTER
from deployments.florence.adapter_files import WEIGHTS as ADAPTER
from deployments.florence.checkpoint import OLD_WEIGHTS
from deployments.florence.convert.names import TRANSPOSED, is_original, native_name
from deployments.florence.tensor_files import Floats, read_headers, shards, weight_files
from deployments.florence.weights import listed

State = dict[str, Tensor]


def state_files(folder: Path) -> list[Path]:
    """The files with a checkpoint's weights: safetensors if there are any, else torch's.

    Raises:
        SetupError: there are none.
    """
    index, single = folder / f"{OLD_WEIGHTS}.index.json", folder / OLD_WEIGHTS
    if any(folder.glob("*.safetensors*")) or not (index.is_file() or single.is_file()):
        return weight_files(folder)
    return [folder / name for name in sorted(set(shards(index)))] if index.is_file() else [single]


def read_tensors(file: Path) -> State:
    """The tensors of one file, of safetensors or of torch.

    Raises:
        SetupError: it is missing or broken, or may run code.
    """
    if file.suffix == ".safetensors":
        read_headers(file)  # refuses what is missing or cut off
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise SetupError(f"{file} cannot be read ({error}): fetch it again") from None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SetupError(f"{file} is missing: fetch it again") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise SetupError(
            f"{file} is broken, or holds more than tensors, which could run code: "
            "save the checkpoint as safetensors"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
        raise SetupError(f"{file} holds no tensors by name: save the checkpoint as safetensors")
    return found


def read_adapter_tensors(folder: Path) -> dict[str, Floats] | None:
    """The tensors of an adapter that is saved by torch alone; None for others."""
    if (folder / ADAPTER).is_file() or not (folder / OLD_ADAPTER).is_file():
        return None
    return {name: each.float().numpy() for name, each in read_tensors(folder / OLD_ADAPTER).items()}


def native_state(folder: Path, state: State) -> State:
    """`state` with native names and shapes.

    Raises:
        SetupError: a name is known in neither layout.
    """
    if not is_original(state):
        return state
    names = {name: native_name(name) for name in state}
    if unknown := {name for name, native in names.items() if native is None}:
        raise SetupError(f"{folder} has {listed(unknown)}, which Florence-2 has not")
    return {
        str(names[name]): each.T.contiguous() if name == TRANSPOSED else each
        for name, each in state.items()
    }
