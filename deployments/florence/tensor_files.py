"""Files of weights: which there are, what their headers say, values as float32; no torch."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from deployments.errors import SetupError

Floats = NDArray[np.float32]

FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


INDEX = "model.safetensors.index.json"


class Header(NamedTuple):
    """Shape and type of a tensor in a file, as `F16` or `I64`."""

    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> list[Path]:
    """A checkpoint's safetensors files: the shards that its index names, or its only file.

    Raises:
        SetupError: there are none, or the index is broken.
    """
    if (folder / INDEX).is_file():
        try:
            return [folder / name for name in sorted(set(shards(folder / INDEX)))]
        except (AttributeError, KeyError, ValueError):
            raise SetupError(f"{folder / INDEX} is broken: fetch the checkpoint again") from None
    files = sorted(file for file in folder.glob("*.safetensors") if "adapter" not in file.name)
    if not files:
        raise SetupError(f"{folder} has no weights (*.safetensors): fetch it again")
    return files


def shards(index: Path) -> list[str]:
    """The file of every tensor that the index names."""
    return list(json.loads(index.read_text())["weight_map"].values())


def weight_headers(folder: Path) -> dict[str, Header]:
    """Every tensor of a checkpoint, by name.

    Raises:
        SetupError: a file is missing or cut off.
    """
    return {
        name: header for file in weight_files(folder) for name, header in read_headers(file).items()
    }


def read_headers(file: Path) -> dict[str, Header]:
    """Every tensor of a safetensors file, by name.

    Raises:
        SetupError: the file is missing or cut off.
    """
    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.offset_keys()}
            return {
                name: Header(tuple(each.get_shape()), str(each.get_dtype()))
                for name, each in slices.items()
            }
    except (OSError, SafetensorError) as error:
        raise SetupError(f"{file} is missing or cut off ({error}): fetch it again") from None


def read_floats(file: Path) -> dict[str, Floats]:
    """Every tensor of a small safetensors file, as float32.

    Raises:
        SetupError: the file is missing or cut off, or holds something else than floats.
    """
    try:
        found = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError, struct.error) as error:
        raise SetupError(f"{file} is missing or cut off ({error}): fetch it again") from None
    return dict(as_floats(file, found))


def as_floats(file: Path, found: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, Floats]]:
    for name, each in found:
        kind, data = each["dtype"], bytes(each["data"])
        if kind == "BF16":  # the upper half of a float32
            values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        elif kind in FLOATS:
            values = np.frombuffer(data, np.dtype(FLOATS[kind]).newbyteorder("<"))
        else:
            raise SetupError(f"{name} in {file} is of type {kind}, not a float: fetch it again")
        yield name, values.reshape(each["shape"]).astype(np.float32)
