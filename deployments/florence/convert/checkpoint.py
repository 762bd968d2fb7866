"""Makes a native checkpoint of another, with an adapter merged into it if one is given."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from deployments.errors import SetupError
from deployments.florence.adapter_files import Adapter
from deployments.florence.checkpoint import Checkpoint, is_original_layout, read
from deployments.florence.convert.description import (
    Tree,
    generation_config,
    native_config,
    processor_config,
    write_json,
)
from deployments.florence.convert.merge import merge, open_adapter
from deployments.florence.convert.names import is_original
from deployments.florence.convert.source import State, native_state, read_tensors, state_files
from deployments.florence.convert.tokenizer import IMAGE, write_tokenizer
from deployments.florence.tensor_files import Header
from deployments.florence.weights import (
    BIAS,
    HEAD,
    SHARED,
    TIED,
    check_headers,
    check_values,
    compare,
    expected_shapes,
)

MULTIPLE = 64  # of the vocabulary's rows, as in the family
STEPS = 5  # reading, merging, casting, writing, checking

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Conversion:
    """What was done."""

    tensors: int
    renamed: int
    rows: tuple[int, int]  # of the vocabulary, before and after
    tokens_added: int
    layers_merged: int
    has_own_head: bool
    dtype: str
    num_bytes: int


def convert(
    source: Path, target: Path, adapter: Path | None, dtype: str, advance: Advance
) -> Conversion:
    """Write the native form of `source` to `target`.

    Args:
        source: a checkpoint in Microsoft's layout or the native one.
        target: a folder that does not exist, or is empty.
        adapter: a folder of PEFT's.
        dtype: what the weights are stored in: float32, float16 or bfloat16.
        advance: called as each of the STEPS is done, with 1.

    Raises:
        SetupError: something is missing, unknown, or does not fit; nothing is written then.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SetupError(f"{target} is not empty: give a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise SetupError(f"cannot write to {target} ({error.strerror}): give another") from None
    try:
        done = write(source, building, adapter, dtype, advance)
        building.chmod(0o755)
        building.replace(target)  # an empty folder is replaced as well
    except OSError as error:
        raise SetupError(f"cannot write {target} ({error.strerror}): make room for it") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return done


def write(
    source: Path, folder: Path, adapter: Path | None, dtype: str, advance: Advance
) -> Conversion:
    """The same into the empty `folder`, which may be left incomplete."""
    config, state, renamed = read_source(source)
    rows = len(state[SHARED])
    advance(1)
    merged: Adapter | None = None
    if adapter is not None:
        merged = open_adapter(adapter, state)
        merge(merged, state)
    advance(1)
    tokens_added = describe(source, folder, config, state, dtype)
    cast(source, state, dtype)
    advance(1)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    advance(1)
    Checkpoint(folder).check()
    check_headers(folder)
    advance(1)
    return Conversion(
        tensors=len(state),
        renamed=renamed,
        rows=(rows, len(state[SHARED])),
        tokens_added=tokens_added,
        layers_merged=len(merged.layers) if merged else 0,
        has_own_head=HEAD in state,
        dtype=dtype,
        num_bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )


def read_source(source: Path) -> tuple[Tree, State, int]:
    """Its configuration, its weights by native name without those that are tied, how many renamed.

    Raises:
        SetupError: it is no Florence-2, or its weights are not whole.
    """
    config = read(source, "config.json")
    if "quantization_config" in config:
        raise SetupError(f"{source} is quantised: give the checkpoint that it was made from")
    state: State = {}
    for file in state_files(source):
        state |= read_tensors(file)
    renamed = len(state) if is_original(state) else 0
    state = native_state(source, state)
    if SHARED not in state:
        raise SetupError(f"the weights in {source} lack {SHARED}: they are not Florence-2's")
    drop_tied(source, state)
    if not renamed and not is_original_layout(config):
        compare(source, headers(state), expected_shapes(source))
    return config, state, renamed


def drop_tied(source: Path, state: State) -> None:
    """Take out what the model has from elsewhere; a head that differs stays.

    Raises:
        SetupError: what would be lost is none of it.
    """
    shared = state[SHARED]
    for name in TIED & state.keys():
        if not torch.equal(state.pop(name), shared):
            raise SetupError(f"{source} has a {name} of its own, which no native model has")
    if BIAS in state and bool(state.pop(BIAS).any()):
        raise SetupError(f"{source} has a {BIAS} that is not zero, which no native model has")
    if HEAD in state and torch.equal(state[HEAD], shared):
        del state[HEAD]


def describe(source: Path, folder: Path, config: Tree, state: State, dtype: str) -> int:
    """Write all files but the weights, and pad the vocabulary; how many tokens were added.

    Raises:
        SetupError: a description is missing, or does not fit the weights.
    """
    if not is_original_layout(config):
        for file in source.glob("*.json"):
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)
        own = {"tie_word_embeddings": HEAD not in state, "dtype": dtype}
        write_json(folder / "config.json", config | own)
        return 0
    tokenizer, tokens_added = write_tokenizer(source, folder)
    image_token = tokenizer.get_vocab()[IMAGE]
    size = max(len(state[SHARED]), tokenizer.get_vocab_size(with_added_tokens=True))
    for name in (SHARED, HEAD):
        if name in state:
            state[name] = padded(state[name], -(-size // MULTIPLE) * MULTIPLE)
    shapes = {name: tuple(each.shape) for name, each in state.items()}
    native = native_config(source, config, shapes, image_token) | {"dtype": dtype}
    write_json(folder / "config.json", native)
    write_json(folder / "generation_config.json", generation_config(source, config))
    write_json(folder / "processor_config.json", processor_config(source, native["vision_config"]))
    compare(source, headers(state), expected_shapes(folder))
    return tokens_added


def padded(weight: Tensor, rows: int) -> Tensor:
    """`weight` with as many rows; each new one is the mean, which never scores highest."""
    missing = rows - len(weight)
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(missing, -1)]) if missing else weight


def cast(source: Path, state: State, dtype: str) -> None:
    """Cast the weights, and refuse what is not finite then."""
    kind: torch.dtype = getattr(torch, dtype)
    for name, each in state.items():
        state[name] = each.to(kind).contiguous()
    check_values(source, state)


def headers(state: State) -> dict[str, Header]:
    """What a file of `state` would say; integers are no floats."""
    kinds = {True: "F32", False: "I64"}
    return {
        name: Header(tuple(each.shape), kinds[each.is_floating_point()])
        for name, each in state.items()
    }
