"""The vision tower, DaViT: images → image tokens.

The same sums as transformers' `Florence2VisionBackbone` and `Florence2MultiModalProjector`,
with the channels last from end to end, so that no layer moves an image in memory first.
Shapes: B images, H×W positions, C channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.florence.engine.layers import (
    FeedForward,
    Linear,
    Norm,
    feed_forward_of,
    linear_of,
    norm_of,
)


@dataclass(frozen=True)
class Convolution:
    """A convolution whose images have their channels last."""

    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: int
    groups: int

    def __call__(self, x: Tensor) -> Tensor:
        image = x.permute(0, 3, 1, 2)
        out = functional.conv2d(
            image, self.weight, self.bias, self.stride, self.padding, 1, self.groups
        )
        return out.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class PatchEmbedding:
    """The beginning of a stage: fewer positions, more channels."""

    convolution: Convolution
    norm: Norm
    norm_first: bool

    def __call__(self, x: Tensor) -> Tensor:
        if self.norm_first:
            return self.convolution(self.norm(x))
        return self.norm(self.convolution(x))


@dataclass(frozen=True)
class WindowAttention:
    """Positions of one window attend to each other."""

    qkv: Linear
    out: Linear
    num_heads: int
    side: int

    def __call__(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        windows = self._windows(x)
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, channels // self.num_heads))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        merged = self.out(mixed.transpose(1, 2).flatten(2))
        return self._image(merged, batch, height, width)

    def _windows(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (windows of all images, positions of one, C), zeros beyond the edge."""
        down, right = (-x.shape[1] % self.side, -x.shape[2] % self.side)
        if down or right:
            x = functional.pad(x, (0, 0, 0, right, 0, down))
        tiles: Tensor = x.unflatten(2, (-1, self.side)).unflatten(1, (-1, self.side))
        return tiles.transpose(2, 3).reshape(-1, self.side**2, x.shape[-1])

    def _image(self, windows: Tensor, batch: int, height: int, width: int) -> Tensor:
        rows, columns = -(-height // self.side), -(-width // self.side)
        tiles = windows.view(batch, rows, columns, self.side, self.side, -1).transpose(2, 3)
        image = tiles.reshape(batch, rows * self.side, columns * self.side, -1)
        return image[:, :height, :width]


@dataclass(frozen=True)
class ChannelAttention:
    """Channels of one group attend to each other, over all positions."""

    qkv: Linear
    out: Linear
    num_groups: int

    def __call__(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        positions = height * width
        qkv = self.qkv(x).view(batch, positions, 3, self.num_groups, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, groups, H·W, C/groups)
        scores = (query * positions**-0.5).transpose(2, 3) @ key
        mixed = value @ scores.softmax(-1).transpose(2, 3)
        return self.out(mixed.transpose(1, 2).reshape(batch, height, width, channels))


@dataclass(frozen=True)
class VisionBlock:
    """Attention and a feed-forward net, each after a depthwise convolution."""

    first: Convolution
    norm: Norm
    attention: WindowAttention | ChannelAttention
    second: Convolution
    last_norm: Norm
    feed_forward: FeedForward

    def __call__(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        x = x + self.attention(self.norm(x))
        x = x + self.second(x)
        return x + self.feed_forward(self.last_norm(x))


class VisionTower:
    """The tower and the projector over the weights of a `Florence2Model`."""

    def __init__(self, model: Any) -> None:
        tower, projector = model.vision_tower, model.multi_modal_projector
        self._stages = [
            (embedding_of(embed), [block_of(part) for layer in layers for part in parts(layer)])
            for embed, layers in zip(tower.convs, tower.blocks, strict=True)
        ]
        self._row_embeddings = projector.image_position_embed.row_embeddings.weight.detach()
        self._column_embeddings = projector.image_position_embed.column_embeddings.weight.detach()
        self._first_frame = projector.visual_temporal_embed.pos_idx_to_embed[0]
        self._projection = linear_of(projector.image_projection)
        self._norm = norm_of(projector.image_proj_norm)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, H, W, 3), normalised → image tokens (B, tokens, d_model)."""
        x = images
        for embed, blocks in self._stages:
            x = embed(x)
            for block in blocks:
                x = block(x)
        return self._norm(self._projection(self._tokens(x)))

    def _tokens(self, x: Tensor) -> Tensor:
        """The mean of all positions, then each position; all know where they lie."""
        height, width = x.shape[1:3]
        columns = self._column_embeddings[:width].expand(height, -1, -1)
        rows = self._row_embeddings[:height, None].expand(-1, width, -1)
        tokens = (x + torch.cat([columns, rows], dim=-1)).flatten(1, 2) + self._first_frame
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)


def parts(layer: Any) -> tuple[Any, Any]:
    return layer.spatial_block, layer.channel_block


def block_of(part: Any) -> VisionBlock:
    return VisionBlock(
        convolution_of(part.conv1),
        norm_of(part.norm1),
        attention_of(part),
        convolution_of(part.conv2),
        norm_of(part.norm2),
        feed_forward_of(part.ffn),
    )


def attention_of(part: Any) -> WindowAttention | ChannelAttention:
    if hasattr(part, "window_attn"):
        found = part.window_attn
        qkv, out = linear_of(found.qkv), linear_of(found.proj)
        return WindowAttention(qkv, out, found.num_heads, found.window_size)
    found = part.channel_attn
    return ChannelAttention(linear_of(found.qkv), linear_of(found.proj), found.groups)


def embedding_of(module: Any) -> PatchEmbedding:
    """The convolution and the norm that begin a stage."""
    return PatchEmbedding(convolution_of(module.conv), norm_of(module.norm), bool(module.pre_norm))


def convolution_of(module: nn.Conv2d) -> Convolution:
    """A convolution with equal strides and paddings."""
    weight = module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    return Convolution(weight, bias, int(module.stride[0]), int(module.padding[0]), module.groups)
