"""Small checkpoints with random weights, whose answers end at any length.

With the weights that transformers draws, the image hardly matters and no answer ends. So these
weights are larger. One channel of the decoder's embeddings is reserved for the end: it grows with
the position, and only the score of `</s>` depends on it. The image and the prompt decide at which
position `</s>` gets the highest score.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from deployments.settings import DEMO_CHECKPOINT

END = 2
FIRST_POSITION = 2  # BART's learned positions begin at 2
LOUDNESS = 8.0  # of `</s>`, in the size of other tokens
HASTE = 0.125  # by which the end comes nearer with each position
GAIN = 1.5  # of what a decoder's layers add


@dataclass(frozen=True)
class Kind:
    """A shape of model: what sets it apart from the demo's, and its image in pixels and tokens."""

    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    image_size: tuple[int, int]
    num_image_tokens: int
    seed: int


SLIM_BASE = Kind(  # the depths and ratios of Florence-2-base at an eighth of its width
    vision={
        "depths": [1, 1, 9, 1],
        "embed_dim": [16, 32, 64, 128],
        "num_heads": [1, 2, 4, 8],
        "num_groups": [1, 2, 4, 8],
        "patch_size": [7, 3, 3, 3],
        "patch_padding": [3, 1, 1, 1],
        "patch_stride": [4, 2, 2, 2],
        "window_size": 12,
        "mlp_ratio": 4.0,
        "projection_dim": 96,
    },
    text={
        "d_model": 96,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 6,
        "decoder_attention_heads": 6,
        "encoder_ffn_dim": 384,
        "decoder_ffn_dim": 384,
    },
    image_size=(96, 96),
    num_image_tokens=10,
    seed=8,
)
UNEVEN = Kind(  # nothing is square, equal or divisible
    vision={
        "depths": [1, 2, 1],
        "embed_dim": [16, 24, 40],
        "num_heads": [2, 3, 5],
        "num_groups": [1, 2, 5],
        "patch_size": [4, 3, 3],
        "patch_padding": [0, 1, 1],
        "patch_stride": [4, 2, 2],
        "patch_prenorm": [False, True, True],
        "window_size": 6,
        "mlp_ratio": 3.0,
        "qkv_bias": False,
        "projection_dim": 40,
    },
    text={
        "d_model": 40,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 5,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 96,
        "scale_embedding": True,
        "max_position_embeddings": 128,
    },
    image_size=(112, 80),
    num_image_tokens=36,
    seed=55,
)


def random_checkpoint(kind: Kind, folder: Path) -> Path:
    """A checkpoint of this kind in `folder`, with the demo's tokenizer; always the same."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_CHECKPOINT / name, folder / name)
    (folder / "processor_config.json").write_text(json.dumps(processor(kind)))
    untrained(kind).save_pretrained(folder)
    return folder


def processor(kind: Kind) -> dict[str, Any]:
    """The demo's processor for this kind's images."""
    found: dict[str, Any] = json.loads((DEMO_CHECKPOINT / "processor_config.json").read_text())
    width, height = kind.image_size
    found["image_processor"]["size"] = {"height": height, "width": width}
    found["image_processor"]["image_seq_length"] = kind.num_image_tokens
    return found


def configuration(kind: Kind) -> Florence2Config:
    """The demo's configuration in this kind's shape."""
    config = Florence2Config.from_pretrained(DEMO_CHECKPOINT)
    for section, changes in ((config.vision_config, kind.vision), (config.text_config, kind.text)):
        for name, value in changes.items():
            setattr(section, name, value)
    return config


def untrained(kind: Kind) -> Any:
    """The model itself."""
    florence: Any = Florence2ForConditionalGeneration(configuration(kind))
    florence.generation_config = GenerationConfig.from_pretrained(DEMO_CHECKPOINT)
    draw(florence, torch.Generator().manual_seed(kind.seed))
    let_it_end(florence)
    return florence


@torch.no_grad()
def draw(florence: Any, generator: torch.Generator) -> None:
    """Weights that keep the variance of what they multiply, and embeddings of variance 1.

    A decoder adds up as much in many layers as in few.
    """
    for parameter in florence.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    layers = florence.model.language_model.decoder.layers
    for layer in layers:
        for last in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
            last.weight *= GAIN * len(layers) ** -0.5
    for embedding in embeddings(florence):
        embedding.normal_(generator=generator)


@torch.no_grad()
def let_it_end(florence: Any) -> None:
    """Give the decoder its direction of the end; what `</s>` adds as the first token is undone."""
    tokens, _, positions = embeddings(florence)
    end = torch.zeros_like(tokens[0])
    end[0] = len(end) ** 0.5
    for embedding in (tokens, positions):
        embedding[:, 0] = 0
    steps = torch.arange(len(positions) - FIRST_POSITION)[:, None]
    positions[FIRST_POSITION:] += HASTE * steps * end
    positions[FIRST_POSITION] -= LOUDNESS * end
    tokens[END] = LOUDNESS * end
    if florence.config.text_config.scale_embedding:
        tokens /= len(end) ** 0.5


def embeddings(florence: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Of the tokens, and of the positions of the encoder and the decoder."""
    language = florence.model.language_model
    return (
        florence.get_input_embeddings().weight,
        language.encoder.embed_positions.weight,
        language.decoder.embed_positions.weight,
    )
