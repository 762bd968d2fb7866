"""The encoder: what the decoder attends to is what transformers' would have projected."""

import pytest
import torch
from torch import Tensor

from deployments.florence.engine.encoder import Encoder, bounded
from tests.florence.engine.pool import Pool


def theirs(pool: Pool) -> tuple[Tensor, Tensor]:
    """Keys and values of each layer (L, B, S, 2·d) for all sequences, and what is no padding."""
    model = pool.model
    ids, mask = model.padded([sequence.prompt for sequence in pool.sequences])
    florence = model.florence.model
    states = florence(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=model.normalised([sequence.pixels for sequence in pool.sequences]),
        decoder_input_ids=torch.zeros_like(ids[:, :1]),
    ).encoder_last_hidden_state
    layers = florence.language_model.decoder.layers
    cross = [layer.encoder_attn for layer in layers]
    projected = [torch.cat([one.k_proj(states), one.v_proj(states)], dim=-1) for one in cross]
    return torch.stack(projected), mask.bool()


@pytest.mark.slow
@torch.inference_mode()
def test_keys_and_values_are_the_librarys(pool: Pool) -> None:
    """For prompts of different lengths in one batch, except where there is padding."""
    expected, real = theirs(pool)
    inputs, encoder = pool.model.inputs, Encoder(pool.model.florence)
    text, mask = inputs.text([sequence.prompt for sequence in pool.sequences])
    seen = encoder.encode_images(inputs.images([sequence.pixels for sequence in pool.sequences]))
    ours = encoder.encode(seen, text, mask)
    assert not real.all()
    torch.testing.assert_close(ours[:, real], expected[:, real], atol=2e-4, rtol=0)


def test_half_precision_stays_finite() -> None:
    """As in transformers' encoder layers; other precisions are left alone."""
    huge = torch.tensor([float("inf"), -float("inf"), 3.0])
    assert bounded(huge.half()).tolist() == [64512.0, -64512.0, 3.0]
    assert bounded(huge) is huge
