"""Files of tensors: what their headers say, and their values as float32; no torch."""

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


class Header(NamedTuple):
    """Shape and type of a tensor in a file, as `F16` or `I64`."""

    shape: tuple[int, ...]
    dtype: str


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
        found = deserialize(file.read_bytes())
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
