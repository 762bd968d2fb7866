"""Florence-2-large as it is published, on the meta device: the engine fits over it.

The numbers are those of `florence-community/Florence-2-large`'s config.json;
no weight takes any memory, and no sum is done.
"""

from functools import cache
from typing import Any

import pytest
import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration

from deployments.florence.engine.batch import BatchShape, BatchView, DecoderBatch, StepSize
from deployments.florence.engine.decoder import Decoder
from deployments.florence.engine.encoder import Encoder

META = torch.device("meta")
FP16 = torch.float16
SIDE, NUM_IMAGE_TOKENS, NUM_TEXT_TOKENS = 768, 577, 14
VISION = {
    "depths": [1, 1, 9, 1],
    "embed_dim": [256, 512, 1024, 2048],
    "num_heads": [8, 16, 32, 64],
    "num_groups": [8, 16, 32, 64],
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "window_size": 12,
    "projection_dim": 1024,
    "max_position_embeddings": 50,
    "max_temporal_embeddings": 100,
}
TEXT = {
    "model_type": "bart",
    "vocab_size": 51328,
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 4096,
}


@cache
def large() -> Any:
    """The whole model in fp16, without weights."""
    config = Florence2Config(vision_config=VISION, text_config=TEXT, image_token_id=51289)
    with META:
        model = Florence2ForConditionalGeneration(config)
    return model.to(FP16).eval()  # type: ignore[arg-type]


def num_parameters() -> float:
    """In millions; what is tied counts once."""
    return float(sum(parameter.numel() for parameter in large().parameters())) / 1e6


def shape(size: int = 1, num_beams: int = 1, num_positions: int = 1) -> BatchShape:
    """For the usual prompts."""
    text = large().config.text_config
    num_encoded = NUM_IMAGE_TOKENS + NUM_TEXT_TOKENS
    layers, heads = text.decoder_layers, text.decoder_attention_heads
    return BatchShape(
        size, num_beams, num_positions, num_encoded, layers, heads, text.d_model // heads
    )


def test_it_is_the_published_model() -> None:
    """776.5 million parameters."""
    assert num_parameters() == pytest.approx(776.5, abs=0.05)


def test_laying_its_weights_out_adds_none() -> None:
    """Its projections become views of the fused ones."""
    Encoder(large()), Decoder(large())
    assert num_parameters() == pytest.approx(776.5, abs=0.05)


@torch.inference_mode()
def test_an_image_takes_577_tokens() -> None:
    """And with its prompt it is keys and values for each layer."""
    encoder = Encoder(large())
    seen = encoder.encode_images(torch.empty(2, SIDE, SIDE, 3, dtype=FP16, device=META))
    assert seen.shape == (2, NUM_IMAGE_TOKENS, 1024)
    text = torch.empty(2, NUM_TEXT_TOKENS, dtype=torch.int64, device=META)
    mask = torch.empty(2, 1, 1, NUM_IMAGE_TOKENS + NUM_TEXT_TOKENS, dtype=FP16, device=META)
    assert encoder.encode(seen, text, mask).shape == (
        12,
        2,
        NUM_IMAGE_TOKENS + NUM_TEXT_TOKENS,
        2048,
    )


@pytest.mark.parametrize("num_beams", [1, 3])
@torch.no_grad()
def test_a_step_scores_every_word(num_beams: int) -> None:
    """For each beam of each sequence."""
    batch = DecoderBatch(shape(8, 3, 65), META, FP16)
    scores = Decoder(large())(batch, BatchView(batch, StepSize(8, num_beams, 64)))
    assert (scores.shape, scores.dtype) == ((8, num_beams, 51328), FP16)


def test_memory_of_a_sequence() -> None:
    """29.05 MB for image and prompt, and 49.2 KB for each token of each beam."""
    one = shape().num_bytes(FP16)
    assert one / 1e6 == pytest.approx(29.05 + 0.0492, abs=0.01)
    tokens = shape(num_positions=1025).num_bytes(FP16) - one
    assert tokens / 1024 / 1e3 == pytest.approx(49.2, abs=0.1)
    beams = shape(num_beams=3, num_positions=1025).num_bytes(FP16) - one
    assert beams / (3 * 1025 - 1) == pytest.approx(tokens / 1024)
