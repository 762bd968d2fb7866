"""A Florence-2 with random weights: as slow as wanted, without meaning, made in seconds."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from deployments.settings import DEMO_CHECKPOINT

SEED = 0
WIDTH = 256
COPIED = ("tokenizer.json", "tokenizer_config.json", "processor_config.json")


def bench_checkpoint(folder: Path) -> Path:
    """A checkpoint of about 10 M parameters in `folder`, made if it is not there.

    Four encoder and four decoder layers of width 256 behind the demo's tokenizer and images.
    """
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(SEED)
        model = Florence2ForConditionalGeneration(config())
        model.generation_config = GenerationConfig.from_pretrained(DEMO_CHECKPOINT)
        model.save_pretrained(folder)
        for name in COPIED:
            shutil.copy(DEMO_CHECKPOINT / name, folder / name)
    return folder


def config() -> Florence2Config:
    """The demo's configuration, made wider and deeper."""
    larger = Florence2Config.from_pretrained(DEMO_CHECKPOINT)
    vision: Any = larger.vision_config
    text: Any = larger.text_config
    vision.embed_dim = [32, 64, 128, WIDTH]
    vision.num_heads = vision.num_groups = [1, 2, 4, 8]
    vision.projection_dim = text.d_model = WIDTH
    text.encoder_layers = text.decoder_layers = 4
    text.encoder_ffn_dim = text.decoder_ffn_dim = 4 * WIDTH
    return larger
