"""One decoding step: the last token of each beam → the scores of every next token.

Shapes: n sequences, k beams of each, V tokens of the vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from deployments.florence.engine.batch import BatchView, DecoderBatch
from deployments.florence.engine.encoder import FIRST_POSITION
from deployments.florence.engine.layers import (
    FeedForward,
    Linear,
    Norm,
    attend,
    attend_in_groups,
    feed_forward_of,
    fuse,
    linear_of,
    norm_of,
)


@dataclass(frozen=True)
class DecoderLayer:
    """Self-attention to the tokens so far, cross-attention to image and prompt, feed-forward."""

    qkv: Linear
    out: Linear
    norm: Norm
    cross_query: Linear
    cross_out: Linear
    cross_norm: Norm
    feed_forward: FeedForward
    last_norm: Norm

    def __call__(self, x: Tensor, kv: Tensor, cross_kv: Tensor, view: BatchView) -> Tensor:
        """(n, k, d) → (n, k, d).

        Args:
            x: the current position of each beam.
            kv: this layer's keys and values of all earlier positions, which this one joins.
            cross_kv: this layer's keys and values of the encoder's output, shared by the beams.
            view: which of them the beams may see.
        """
        width = x.shape[-1]
        qkv = self.qkv(x)
        view.write(kv, qkv[..., width:])
        x = self.norm(x + self.out(attend_in_groups(qkv[..., :width], view.read(kv))))
        mixed = attend(self.cross_query(x), cross_kv, view.cross_mask)
        x = self.cross_norm(x + self.cross_out(mixed))
        return self.last_norm(x + self.feed_forward(x))


class Decoder:
    """The decoder and the language head over the weights of one model."""

    def __init__(self, florence: Any) -> None:
        decoder = florence.model.language_model.decoder
        config = decoder.config
        self.vocab_size: int = config.vocab_size
        self._embedding = decoder.embed_tokens.weight.detach()
        self._scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self._positions = decoder.embed_positions.weight.detach()[FIRST_POSITION:]
        self._norm = norm_of(decoder.layernorm_embedding)
        self._layers = [decoder_layer_of(layer) for layer in decoder.layers]
        self._head = linear_of(florence.lm_head)

    def __call__(self, batch: DecoderBatch, view: BatchView) -> Tensor:
        """The scores of each beam's next token: (n, k, V)."""
        tokens = self._scale * functional.embedding(view.last_tokens, self._embedding)
        x = self._norm(tokens + functional.embedding(view.current, self._positions)[:, None])
        for layer, kv, cross_kv in zip(self._layers, batch.kv, batch.cross_kv, strict=True):
            x = layer(x, kv, view.read_encoded(cross_kv), view)
        return self._head(x)


def decoder_layer_of(layer: Any) -> DecoderLayer:
    """One of transformers' `BartDecoderLayer`s."""
    own, cross = layer.self_attn, layer.encoder_attn
    return DecoderLayer(
        fuse([own.q_proj, own.k_proj, own.v_proj]),
        linear_of(own.out_proj),
        norm_of(layer.self_attn_layer_norm),
        linear_of(cross.q_proj),
        linear_of(cross.out_proj),
        norm_of(layer.encoder_attn_layer_norm),
        feed_forward_of(layer),
        norm_of(layer.final_layer_norm),
    )
