"""A Florence-2 with random weights: as slow as wanted, without meaning, made in seconds."""

import shutil
from pathlib import Path

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
    larger.vision_config.embed_dim = [32, 64, 128, WIDTH]
    larger.vision_config.num_heads = larger.vision_config.num_groups = [1, 2, 4, 8]
    larger.vision_config.projection_dim = WIDTH
    larger.text_config.d_model = WIDTH
    larger.text_config.encoder_layers = larger.text_config.decoder_layers = 4
    larger.text_config.encoder_ffn_dim = larger.text_config.decoder_ffn_dim = 4 * WIDTH
    return larger
