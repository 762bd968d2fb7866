"""Adapters in PEFT's layout for the demo checkpoint, which change its answers."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from deployments.florence.tensor_files import read_floats
from deployments.settings import DEMO_CHECKPOINT

TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "encoder_attn.q_proj", "fc1", "fc2")
RANK = 4


def write_adapter(
    folder: Path, seed: int = 0, loudness: float = 2.0, **config: object
) -> Mapping[str, NDArray[np.float32]]:
    """Random factors for the decoder's projections in `folder`; what they add to each weight."""
    generator = np.random.default_rng(seed)
    weights = read_floats(DEMO_CHECKPOINT / "model.safetensors")
    tensors: dict[str, NDArray[np.float32]] = {}
    added: dict[str, NDArray[np.float32]] = {}
    for name, weight in sorted(weights.items()):
        module = name.removesuffix(".weight")
        if ".decoder.layers." not in name or not module.endswith(TARGETS):
            continue
        down = generator.standard_normal((RANK, weight.shape[1])).astype(np.float32)
        up = generator.standard_normal((weight.shape[0], RANK)).astype(np.float32)
        up *= loudness * float(weight.std()) / RANK**0.5
        prefix = f"base_model.model.{module}"
        tensors |= {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
        added[name] = up @ down
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK} | config
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return added
