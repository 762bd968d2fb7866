"""A Florence-2 with random weights: as slow as wanted, without meaning, made in seconds."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from deployments.settings import DEMO_CHECKPOINT

SEED = 0
WIDTH = 256
SIDE = 224
COPIED = ("tokenizer.json", "tokenizer_config.json")


def bench_checkpoint(folder: Path) -> Path:
    """A checkpoint of about 10 M parameters in `folder`, made if it is not there.

    Four encoder and four decoder layers of width 256, images of 224×224 in 50 tokens,
    the demo's tokenizer.
    """
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(SEED)
        model = Florence2ForConditionalGeneration(config())
        model.generation_config = GenerationConfig.from_pretrained(DEMO_CHECKPOINT)
        model.save_pretrained(folder)
        for name in COPIED:
            shutil.copy(DEMO_CHECKPOINT / name, folder / name)
        (folder / "processor_config.json").write_text(json.dumps(processor(), indent=2))
    return folder


def config() -> Florence2Config:
    """The demo's configuration, made wider and deeper."""
    larger = Florence2Config.from_pretrained(DEMO_CHECKPOINT)
    vision: Any = larger.vision_config
    text: Any = larger.text_config
    vision.embed_dim = [32, 64, 128, WIDTH]
    vision.num_heads = vision.num_groups = [1, 2, 4, 8]
    vision.patch_stride = [8, 2, 2, 1]
    vision.projection_dim = text.d_model = WIDTH
    text.encoder_layers = text.decoder_layers = 4
    text.encoder_ffn_dim = text.decoder_ffn_dim = 4 * WIDTH
    return larger


def processor() -> dict[str, Any]:
    """The demo's processor for the larger images."""
    found: dict[str, Any] = json.loads((DEMO_CHECKPOINT / "processor_config.json").read_text())
    found["image_processor"]["size"] = {"height": SIDE, "width": SIDE}
    found["image_processor"]["image_seq_length"] = (SIDE // 32) ** 2 + 1
    return found
