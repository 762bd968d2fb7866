"""Adapters as PEFT itself makes and saves them."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

# Layers of the text side and of the vision tower, by their native names.
LAYERS = ["q_proj", "v_proj", "fc1", "qkv", "image_projection"]


def train_adapter(florence: Any, **options: Any) -> Any:
    """PEFT's model around `florence`, with an adapter of random weights that changes answers."""
    usual: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": LAYERS}
    config = LoraConfig(**(usual | options))
    model = get_peft_model(florence, config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                weights.copy_(torch.randn(weights.shape, generator=generator) * 0.08)
            elif "magnitude" in name:
                weights.mul_(1 + 0.1 * torch.rand(weights.shape, generator=generator))
    return model


def save_adapter(folder: Path, florence: Any, **options: Any) -> Any:
    """The same, saved in `folder`."""
    model = train_adapter(florence, **options)
    model.save_pretrained(folder)
    return model


def rewrite(folder: Path, change: Any) -> None:
    """Replace the tensors of a saved adapter by what `change` makes of them."""
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
