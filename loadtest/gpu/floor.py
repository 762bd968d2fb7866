"""The least time that a card can need: arithmetic for the encoder, memory traffic for a step.

Reading an image is bound by arithmetic. A step of the decoder is bound by memory: it reads the
weights once, and for every sequence the keys and values of its image, prompt and earlier tokens.
The encoder runs before the decoder here; at the same time, the shorter of both could be hidden.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Florence2ForConditionalGeneration

from deployments.florence.engine.encoder import Encoder
from loadtest.gpu.model import NUM_TEXT_TOKENS, ModelShape

REPEATS = 20


@dataclass(frozen=True)
class CardSpeed:
    """Floating point operations and bytes a second."""

    flops: float
    bandwidth: float


H200 = CardSpeed(790e12, 4.3e12)  # fp16, what a large product and a large copy reach at best


@dataclass(frozen=True)
class FloorWork:
    """What one image and its answer need: operations, and bytes that must be read."""

    image_flop: float
    weight_bytes: int  # of a step
    cross_bytes: int  # of a step, for each sequence
    token_bytes: int  # of a step, for each sequence and earlier token

    def image_s(self, card: CardSpeed) -> float:
        return self.image_flop / card.flops

    def step_s(self, card: CardSpeed, batch_size: int, context: float) -> float:
        """Seconds of a step of so many sequences after so many tokens."""
        sequence_bytes = self.cross_bytes + self.token_bytes * context
        return (self.weight_bytes + batch_size * sequence_bytes) / card.bandwidth

    def images_per_s(self, card: CardSpeed, batch_size: int, num_tokens: int) -> float:
        """Images a second when all answers have so many tokens and the batch is always full."""
        steps_s = num_tokens * self.step_s(card, batch_size, num_tokens / 2)
        return 1 / (self.image_s(card) + steps_s / batch_size)


def work(shape: ModelShape, dtype: torch.dtype) -> FloorWork:
    """The work of a model of this shape, counted on tensors without memory."""
    with torch.device("meta"):
        florence: Any = Florence2ForConditionalGeneration(shape.config()).to(dtype)  # type: ignore[arg-type]
    num_positions, width = (
        shape.num_image_tokens + NUM_TEXT_TOKENS,
        2 * dtype.itemsize * shape.d_model,
    )
    layers = florence.model.language_model.decoder.layers
    once = [
        layer.encoder_attn.get_submodule(name) for layer in layers for name in ("k_proj", "v_proj")
    ]
    num_weights = count(layers) - sum(map(count, once)) + florence.lm_head.weight.numel()
    return FloorWork(
        image_flop=image_flop(Encoder(florence), shape, dtype),
        weight_bytes=num_weights * dtype.itemsize,
        cross_bytes=shape.layers * num_positions * width,
        token_bytes=shape.layers * width,
    )


def count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def image_flop(encoder: Encoder, shape: ModelShape, dtype: torch.dtype) -> float:
    """Floating point operations of the encoder for one image and its prompt."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        tokens = encoder.encode_images(torch.empty(1, shape.side, shape.side, 3, dtype=dtype))
        words = torch.empty(1, NUM_TEXT_TOKENS, dtype=torch.int64)
        encoder.encode(
            tokens, words, torch.empty(1, 1, 1, tokens.shape[1] + NUM_TEXT_TOKENS, dtype=dtype)
        )
    return float(counter.get_total_flops())


def measure(device: torch.device, dtype: torch.dtype) -> CardSpeed:
    """What this card reaches with a large product and a large copy."""
    side, num_bytes = (8192, 1 << 31) if device.type == "cuda" else (512, 1 << 24)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(num_bytes, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return CardSpeed(
        flops=2 * side**3 / best_s(lambda: a @ b, device),
        bandwidth=2 * num_bytes / best_s(lambda: target.copy_(source), device),
    )


def best_s(work: Callable[[], object], device: torch.device) -> float:
    return min(timed_s(work, device) for _ in range(REPEATS))


def timed_s(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until it is done, on the device as well."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
