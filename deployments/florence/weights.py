"""Whether a checkpoint's weights are the model's: every name, shape, type and value.

The library loads what it finds and draws the rest at random.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import Florence2Config, Florence2ForConditionalGeneration

from deployments.errors import SetupError
from deployments.florence.tensor_files import Header, weight_files, weight_headers

SHARED = "model.language_model.shared.weight"
HEAD = "lm_head.weight"
TIED = {
    "model.language_model.encoder.embed_tokens.weight",
    "model.language_model.decoder.embed_tokens.weight",
}
BIAS = "final_logits_bias"  # of BART's head; zero, and absent here
FLOATS = {"F64", "F32", "F16", "BF16"}


def expected_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """What the model that `folder` describes has, by name: shapes of its state."""
    config = Florence2Config.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        state = Florence2ForConditionalGeneration(config).state_dict()
    tied = TIED | ({HEAD} if config.tie_word_embeddings else set())
    return {name: tuple(each.shape) for name, each in state.items() if name not in tied}


def check_headers(folder: Path) -> None:
    """Compare the headers of the weights with the model's own state.

    Raises:
        SetupError: a tensor is missing, unknown, of another shape, or no float.
    """
    compare(folder, weight_headers(folder), expected_shapes(folder))


def compare(
    folder: Path, found: Mapping[str, Header], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse `found` unless it is `expected`.

    Raises:
        SetupError: a tensor is missing, unknown, of another shape, or no float.
    """
    known = expected.keys() | TIED | {HEAD, BIAS}
    again = "fetch or save the checkpoint again"
    if missing := expected.keys() - found.keys():
        raise SetupError(f"the weights in {folder} lack {listed(missing)}: {again}")
    if unknown := found.keys() - known:
        raise SetupError(f"{folder} has {listed(unknown)}, which Florence-2 has not: {again}")
    if strange := {name for name, each in found.items() if each.dtype not in FLOATS}:
        kind = found[min(strange)].dtype
        raise SetupError(
            f"{folder} has {listed(strange)} of type {kind}: quantised weights are not served, "
            "give those that they were made from"
        )
    shapes = dict.fromkeys(TIED | {HEAD}, expected[SHARED]) | dict(expected)
    wrong = {name for name in shapes.keys() & found.keys() if found[name].shape != shapes[name]}
    if wrong:
        first = min(wrong)
        raise SetupError(
            f"{folder} has {listed(wrong)} of shape {found[first].shape}, "
            f"its config.json says {shapes[first]}: {again}"
        )


def check_values(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite.

    Raises:
        SetupError: the first of them is named, and their number.
    """
    wrong = {name for name, each in state.items() if not bool(torch.isfinite(each).all())}
    if wrong:
        kind = str(state[min(wrong)].dtype).removeprefix("torch.")
        raise SetupError(
            f"{folder} has {listed(wrong)} not finite in {kind}: "
            "fetch or train it again, or set model.dtype to what it was trained in"
        )


def check_ignored(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse what the files have beside the loaded weights `state`, unless it is the same.

    Raises:
        SetupError: the first of them is named.
    """
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in (TIED | {HEAD, BIAS}) & set(tensors.offset_keys()):
                values = tensors.get_tensor(name)
                own = torch.zeros_like(values) if name == BIAS else state[name].cpu()
                if not torch.equal(values.to(own.dtype), own):
                    raise SetupError(
                        f"{folder} has a {name} of its own, which would be ignored: set "
                        f"tie_word_embeddings to false in its config.json, or leave it out"
                    )


def listed(names: Collection[str]) -> str:
    """The first of some names, and how many others there are."""
    more = len(names) - 1
    return min(names) + (f" and {more} more" if more else "")
