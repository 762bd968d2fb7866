"""Puts an engine together: how many rows it has, and what is done before the first query."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployments.florence.cache import Cache
from deployments.florence.engine.decoder import Decoder
from deployments.florence.engine.encoder import Encoder
from deployments.florence.engine.engine import Engine, Options
from deployments.florence.engine.grammar import Boxes
from deployments.florence.engine.inputs import Inputs
from deployments.florence.engine.memory import GB, budget_bytes, fitting
from deployments.florence.engine.prefill import Prefill
from deployments.florence.engine.rows import Rows, Shape
from deployments.florence.engine.search import Rules
from deployments.florence.request import Pixels, Query

# As deployments/telemetry/log.py, without which the engine can be taken to a GPU by itself.
logger = logging.getLogger("ray.serve.florence")


@dataclass(frozen=True)
class Size:
    """How much an engine is to hold.

    At most `num_rows` sequences at a time;
    `num_words` is the longest prompt in tokens, without the image's place;
    `utilization` is the share of a GPU's memory that may be used.
    """

    num_rows: int
    num_words: int
    utilization: float = 0.9


def build(
    florence: Any,
    inputs: Inputs,
    rules: Rules,
    options: Options,
    size: Size,
    image: tuple[int, int],
    cache: Cache[Tensor] | None = None,
    bins: Mapping[int, int] | None = None,
) -> Engine:
    """An engine that is warm.

    Args:
        florence: transformers' `Florence2ForConditionalGeneration`, where it is to compute.
        image: (width, height) in pixels that the model sees.
        cache: where image tokens are remembered.
        bins: location tokens, id → bin, where decoding is to be constrained.

    Raises:
        SetupError: the GPU has no room for a single sequence.
    """
    longest = longest_query(inputs, size.num_words, image)
    if inputs.mean.is_cuda:
        prefer_ready_kernels()
        num_positions = aligned(inputs.num_image_tokens + size.num_words)
        inputs = replace(inputs, num_words=num_positions - inputs.num_image_tokens)
        options = replace(options, ahead=True)
    prefill = Prefill(Encoder(florence), inputs, cache)
    shape = shape_of(florence.config.text_config, inputs.num_image_tokens, options, size)
    if inputs.mean.is_cuda:
        room = room_for_rows(prefill, [longest] * options.micro_batch, size.utilization)
        shape = replace(shape, num_rows=fitting(shape, inputs.dtype, room))
        options = replace(options, micro_batch=min(options.micro_batch, shape.num_rows))
    rows = Rows(shape, inputs.mean.device, inputs.dtype)
    decoder = Decoder(florence)
    boxes = bins and Boxes(bins, decoder.num_words, rules.eos, rows)
    engine = Engine(prefill, decoder, rules, options, rows, boxes or None)
    engine.warm_up(longest)
    logger.info(described(shape, inputs.dtype))
    return engine


def shape_of(text: Any, num_image_tokens: int, options: Options, size: Size) -> Shape:
    """The rows that are wanted; `text` is the configuration of the encoder and decoder."""
    return Shape(
        num_rows=size.num_rows,
        num_lanes=options.num_beams,
        num_positions=options.max_new_tokens + 1,
        num_encoded=aligned(num_image_tokens + size.num_words),
        num_layers=text.decoder_layers,
        num_heads=text.decoder_attention_heads,
        head_width=text.d_model // text.decoder_attention_heads,
    )


def aligned(num_positions: int) -> int:
    """Positions as a GPU's attention kernels read them without copying their mask first."""
    return -(-num_positions // 16) * 16


def prefer_ready_kernels() -> None:
    """Keep attention off cuDNN, which torch tries first on Hopper and Blackwell.

    It plans every shape anew, for about half a second with a mask (modelscope/FunASR#3704), and
    an engine records some hundred shapes.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def longest_query(inputs: Inputs, num_words: int, image: tuple[int, int]) -> Query:
    """A black image with the longest prompt."""
    return Query(black(image), [0] * (inputs.num_image_tokens + num_words))


def black(size: tuple[int, int]) -> Pixels:
    """A black image of this (width, height)."""
    width, height = size
    return np.zeros((height, width, 3), np.uint8)


@torch.inference_mode()
def room_for_rows(prefill: Prefill, queries: list[Query], utilization: float) -> int:
    """Bytes of the card that are left for rows, by what a pass of the encoder has taken at most."""
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    prefill(queries).wait()
    torch.cuda.synchronize(device)
    working = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return budget_bytes(device, utilization, 2 * working)  # eager, and recorded


def described(shape: Shape, dtype: torch.dtype) -> str:
    """What was chosen, for the log."""
    each = shape.num_bytes(dtype)
    return (
        f"engine: {shape.num_rows} slots of {each / 1e6:.1f} MB, "
        f"{shape.num_rows * each / GB:.2f} GB in all; "
        f"{shape.num_lanes} beams, {shape.num_positions - 1} tokens, {dtype}"
    )
