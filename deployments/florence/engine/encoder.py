"""The encoder: images and prompts → the keys and values that the decoder attends to."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deployments.florence.engine.layers import (
    FeedForward,
    Linear,
    Norm,
    feed_forward_of,
    fuse,
    linear_of,
    norm_of,
)
from deployments.florence.engine.vision import VisionTower

FIRST_POSITION = 2  # BART's learned positions begin at 2


@dataclass(frozen=True)
class EncoderLayer:
    """Self-attention over all that is no padding, then a feed-forward net; norms come last."""

    qkv: Linear
    out: Linear
    norm: Norm
    feed_forward: FeedForward
    last_norm: Norm
    num_heads: int

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm(x + self.out(mixed.transpose(1, 2).flatten(2)))
        return bounded(self.last_norm(x + self.feed_forward(x)))


class Encoder:
    """Vision tower, text encoder and cross-attention keys over the weights of one model."""

    def __init__(self, florence: Any) -> None:
        language = florence.model.language_model
        text = language.encoder
        self._vision = VisionTower(florence.model)
        self._embedding = language.shared.weight.detach()
        self._scale = math.sqrt(text.config.d_model) if text.config.scale_embedding else 1.0
        self._positions = text.embed_positions.weight.detach()[FIRST_POSITION:]
        self._norm = norm_of(text.layernorm_embedding)
        self._layers = [encoder_layer_of(layer) for layer in text.layers]
        self._cross_kv = [cross_kv_of(layer.encoder_attn) for layer in language.decoder.layers]

    def encode_images(self, images: Tensor) -> Tensor:
        """Normalised images (B, H, W, 3) → image tokens (B, I, d_model)."""
        return self._vision(images)

    def encode(self, image_tokens: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Keys and values for each decoder layer's cross-attention: (L, B, S, 2·d_model).

        Args:
            image_tokens: what `encode_images` returns.
            text: prompts without the image's tokens, padded on the right: (B, W).
            mask: what is added to the scores of each of the S = I + W positions:
                zero, or minus infinity for padding: (B, 1, 1, S).
        """
        x = torch.cat(
            [image_tokens, self._scale * functional.embedding(text, self._embedding)], dim=1
        )
        x = self._norm(x + self._positions[: x.shape[1]])
        for layer in self._layers:
            x = layer(x, mask)
        return torch.stack([project(x) for project in self._cross_kv])


def encoder_layer_of(layer: Any) -> EncoderLayer:
    """One of transformers' `BartEncoderLayer`s."""
    attention = layer.self_attn
    return EncoderLayer(
        fuse([attention.q_proj, attention.k_proj, attention.v_proj]),
        linear_of(attention.out_proj),
        norm_of(layer.self_attn_layer_norm),
        feed_forward_of(layer),
        norm_of(layer.final_layer_norm),
        attention.num_heads,
    )


def cross_kv_of(attention: Any) -> Linear:
    """Keys and values of a cross-attention in one product."""
    return fuse([attention.k_proj, attention.v_proj])


def bounded(x: Tensor) -> Tensor:
    """`x` kept finite in fp16, as transformers' encoder layers do, without asking whether it is."""
    if x.dtype != torch.float16:
        return x
    limit = torch.finfo(x.dtype).max - 1000
    return x.clamp(-limit, limit)
