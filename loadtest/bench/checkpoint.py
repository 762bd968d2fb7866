"""Checkpoints with random weights: as slow as wanted, without meaning, made in seconds."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig
from transformers.utils import logging as transformers_logging

from deployments.florence.checkpoint import Checkpoint
from deployments.settings import DEMO_CHECKPOINT
from loadtest.bench.clockwork import wind

SEED = 0
WIDTH = 256
SIDE = 224
COPIED = ("tokenizer.json", "tokenizer_config.json")


def bench_checkpoint(folder: Path) -> Path:
    """A checkpoint of about 10 M parameters in `folder`, made if it is not there.

    Four encoder and four decoder layers of width 256, images of 224×224 in 50 tokens,
    the demo's tokenizer. Its answers never end by themselves.
    """
    if not is_made(folder):
        model = untrained()
        describe(folder)
        model.save_pretrained(folder)
    return folder


def mixed_checkpoint(folder: Path) -> Path:
    """The same, but greedy, and an answer ends: from 8 tokens for a dark image to 480 (clockwork).

    Its images come from `mixture`.
    """
    if not is_made(folder):
        model = untrained()
        describe(folder)
        wind(model, Checkpoint(folder))
        model.generation_config.num_beams = 1
        model.generation_config.early_stopping = False  # means nothing without beams, and warns
        model.save_pretrained(folder)
    return folder


def is_made(folder: Path) -> bool:
    """Whether the weights, which are written last, are there."""
    return (folder / "model.safetensors").is_file()


def untrained() -> Any:
    """A model with random weights, always the same, and the demo's way to generate."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(SEED)
    model: Any = Florence2ForConditionalGeneration(config())
    model.generation_config = GenerationConfig.from_pretrained(DEMO_CHECKPOINT)
    return model.eval()


def describe(folder: Path) -> None:
    """The files that say how to read images and text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copy(DEMO_CHECKPOINT / name, folder / name)
    (folder / "processor_config.json").write_text(json.dumps(processor(), indent=2))
    config().save_pretrained(folder)


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
