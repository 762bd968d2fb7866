"""LoRA and DoRA adapters in PEFT's layout, with native names whatever they were made on; no torch.

An adapter is read whole or refused: what would be ignored changes answers without a word.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deployments.errors import SetupError
from deployments.florence.convert.names import native_module
from deployments.florence.tensor_files import Floats, Header, read_floats

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OLD_WEIGHTS = "adapter_model.bin"
HEAD, EMBEDDING = "lm_head", "model.language_model.shared"

# Options that change what the weights mean, with the values that change nothing.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_bdlora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}
CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PART = re.compile(
    r"(?:base_model\.model\.)?(.+)\."
    r"(?:lora_(?P<part>[AB])(?:\.weight)?|lora_(?P<norm>magnitude_vector)(?:\.weight)?)"
)


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one linear layer: `scale * up @ down`."""

    down: Floats  # (rank, in)
    up: Floats  # (out, rank)
    scale: float
    magnitude: Floats | None = None  # (out,): the length of each row of the sum, in DoRA

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])


@dataclass(frozen=True)
class Adapter:
    """A folder's adapter: the native name of each changed module, without `.weight`."""

    folder: Path
    layers: Mapping[str, LowRank]
    copies: Mapping[str, Floats]  # weights of the base that PEFT saved along: see `check_copies`

    @property
    def is_dora(self) -> bool:
        """Whether it must be merged to be used."""
        return any(each.magnitude is not None for each in self.layers.values())


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter, or parts of one."""
    return any((folder / name).exists() for name in (CONFIG, WEIGHTS, OLD_WEIGHTS))


def read_adapter(
    folder: Path, base: Mapping[str, Header], tensors: Mapping[str, Floats] | None = None
) -> Adapter:
    """The adapter in `folder`, for a checkpoint whose tensors have the headers `base`.

    Args:
        tensors: its weights by the names in its file; read from safetensors where not given.

    Raises:
        SetupError: it is incomplete or broken, does not fit, or asks for more than is done.
    """
    config = read_config(folder)
    if tensors is None:
        tensors = read_weights(folder)
    parts: dict[str, dict[str, Floats]] = {}
    copies: dict[str, Floats] = {}
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise SetupError(f"{folder}: {name} is not finite: train or fetch it again")
        match = _PART.fullmatch(name)
        if not match and (copied := native_copy(name)):
            copies[copied] = values
            continue
        if not match:
            raise SetupError(f"{folder}: {name} would be ignored; only LoRA and DoRA are known")
        parts.setdefault(match[1], {})[match["part"] or "magnitude"] = values
    if not parts:
        raise SetupError(f"{folder} holds no weights of an adapter: fetch it again")
    layers = {}
    for module, found in parts.items():
        native = native_module(module)
        if native is None:
            raise SetupError(f"{folder}: Florence-2 has no module {module}")
        layers[native] = low_rank(folder, module, found, config)
    fitting = {name: fitted(folder, name, each, base) for name, each in layers.items()}
    return Adapter(folder, fitting, copies)


def native_copy(name: str) -> str | None:
    """The native module of whose weight this is a copy: PEFT saves those of an adapted head."""
    match = re.fullmatch(r"(?:base_model\.model\.)?(.+?)(?:\.base_layer)?\.weight", name)
    native = native_module(match[1]) if match else None
    return native if native in (HEAD, EMBEDDING) else None


def check_copies(adapter: Adapter, weight: Callable[[str], Floats]) -> None:
    """Compare the copies of the base's weights with the base, up to float16's rounding.

    Args:
        weight: the base's weight of a native module; of a tied head, the embedding's.

    Raises:
        SetupError: a copy differs, so the adapter was trained on another checkpoint.
    """
    for name, copy in adapter.copies.items():
        own = weight(name)[: len(copy)]
        if own.shape != copy.shape or not np.allclose(own, copy, rtol=0.01, atol=1e-3):
            raise SetupError(
                f"{adapter.folder}: its copy of {name} is not the checkpoint's: "
                "it belongs to another checkpoint"
            )


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's description, refused if it asks for what is not done.

    Raises:
        SetupError: it is missing or broken, or of a kind that is not known.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        kind = config.get("peft_type")
    except FileNotFoundError:
        raise SetupError(f"{folder} has no {CONFIG}: it is no adapter of PEFT") from None
    except (AttributeError, ValueError):
        raise SetupError(f"{folder / CONFIG} is broken: fetch it again") from None
    if kind != "LORA":
        raise SetupError(f"{folder} is a {kind} adapter: only LoRA and DoRA are known")
    for option, harmless in UNSUPPORTED.items():
        if config.get(option) not in harmless:
            raise SetupError(
                f"{folder} has {option} in its {CONFIG}, which is not known: "
                "merge it with PEFT itself and convert the merged checkpoint"
            )
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(CHANGES_THE_BASE):
        raise SetupError(
            f"{folder} was begun with {start}, which changed its base: save it with PEFT's "
            "path_initial_model_for_weight_conversion first"
        )
    return config


def read_weights(folder: Path) -> dict[str, Floats]:
    """Its tensors as float32.

    Raises:
        SetupError: there are none, or only such as may run code.
    """
    if (folder / WEIGHTS).is_file():
        return read_floats(folder / WEIGHTS)
    if (folder / OLD_WEIGHTS).is_file():
        raise SetupError(
            f"{folder} has {OLD_WEIGHTS} only: merge it with "
            f"florence convert BASE DEST --adapter {folder}"
        )
    raise SetupError(f"{folder} has no {WEIGHTS}: fetch it again")


def low_rank(
    folder: Path, module: str, found: Mapping[str, Floats], config: Mapping[str, Any]
) -> LowRank:
    """The parts of one module, put together.

    Raises:
        SetupError: one is missing, or their ranks do not agree.
    """
    if missing := {"A", "B"} - found.keys():
        raise SetupError(f"{folder}: {module} has no lora_{min(missing)}: fetch it again")
    down, up = found["A"], found["B"]
    rank = int(of_pattern(config.get("rank_pattern"), module, config.get("r")))
    if down.ndim != 2 or up.ndim != 2:
        raise SetupError(f"{folder}: {module} is no linear layer; only those are known")
    if not down.shape[0] == up.shape[1] == rank:
        raise SetupError(
            f"{folder}: {module} has ranks {down.shape[0]} and {up.shape[1]}, "
            f"its {CONFIG} says {rank}: they do not belong together"
        )
    if ("magnitude" in found) != bool(config.get("use_dora")):
        raise SetupError(f"{folder}: {module} and use_dora in {CONFIG} do not agree")
    alpha = float(of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha")))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    magnitude = found.get("magnitude")
    return LowRank(down, up, scale, None if magnitude is None else magnitude.reshape(-1))


def of_pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that ends like `module`, as PEFT chooses it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def fitted(folder: Path, name: str, layer: LowRank, base: Mapping[str, Header]) -> LowRank:
    """`layer` for the base's module `name`.

    The native head has more rows than the original, whose vocabulary is not padded.

    Raises:
        SetupError: there is no such linear layer, or it has another shape.
    """
    weight = base.get(f"{name}.weight")
    if weight is None and name == HEAD:  # tied
        weight = base.get(f"{EMBEDDING}.weight")
    if weight is None or len(weight.shape) != 2 or name == EMBEDDING:
        raise SetupError(f"{folder}: the checkpoint has no linear layer {name}")
    num_out, num_in = weight.shape
    if name == HEAD and layer.magnitude is None:
        missing = max(0, num_out - layer.up.shape[0])
        layer = replace(layer, up=np.pad(layer.up, ((0, missing), (0, 0))))
    lengths = {layer.up.shape[0]} | (set() if layer.magnitude is None else {layer.magnitude.size})
    if layer.down.shape[1] != num_in or lengths != {num_out}:
        raise SetupError(
            f"{folder}: {name} is made for {layer.down.shape[1]} to {layer.up.shape[0]} values, "
            f"the checkpoint's has {num_in} to {num_out}: it belongs to another checkpoint"
        )
    return layer
