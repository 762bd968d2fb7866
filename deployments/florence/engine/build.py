"""Puts an engine together: how many sequences fit, and what is done before the first one."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployments.errors import SetupError
from deployments.florence.engine.batch import BatchShape, DecoderBatch, aligned
from deployments.florence.engine.decoder import Decoder
from deployments.florence.engine.device import GB, available_bytes
from deployments.florence.engine.encoder import Encoder
from deployments.florence.engine.engine import Engine, EngineConfig
from deployments.florence.engine.low_rank import Adapters
from deployments.florence.engine.prefill import Inputs, Prefill
from deployments.florence.engine.search import BoxGrammar, GenerationRules
from deployments.florence.image_cache import ImageCache
from deployments.florence.sequence import Pixels, Sequence
from deployments.florence.token_scores import TokenScorer

# As deployments/telemetry/log.py, without which the engine can be taken to a GPU by itself.
logger = logging.getLogger("ray.serve.florence")


def build(
    florence: Any,
    inputs: Inputs,
    rules: GenerationRules,
    config: EngineConfig,
    image_size: tuple[int, int],
    image_cache: ImageCache[Tensor] | None = None,
    bins: Mapping[int, int] | None = None,
    constrained: bool = False,
    adapters: Adapters | None = None,
) -> Engine:
    """An engine that is warm.

    Args:
        florence: transformers' `Florence2ForConditionalGeneration`, where it is to compute.
        image_size: (width, height) in pixels that the model sees.
        bins: location tokens: id → bin.
        constrained: whether sequences are held to their grammars, which needs `bins`.
        adapters: those that were attached to `florence`.

    Raises:
        SetupError: the GPU has no memory for a single sequence.
    """
    longest = longest_sequence(inputs, config.max_text_tokens, image_size)
    shape = shape_of(florence.config.text_config, inputs.num_image_tokens, config)
    if inputs.mean.is_cuda:
        prefer_ready_kernels()
        inputs = replace(inputs, num_text_tokens=shape.num_encoded - inputs.num_image_tokens)
        config = replace(config, launch_ahead=True)
    prefill = Prefill(Encoder(florence), inputs, image_cache, adapters)
    decoder = Decoder(florence)
    if inputs.mean.is_cuda:
        available = bytes_for_batch(prefill, longest, config)
        available -= image_cache.max_bytes if image_cache else 0
        most = fitting(shape, inputs.dtype, available)
        shape = replace(shape, max_batch_size=most)
        config = replace(config, prefill_batch_size=min(config.prefill_batch_size, most))
    batch = DecoderBatch(shape, inputs.mean.device, inputs.dtype)
    bins = bins or {}
    grammar = BoxGrammar(bins, decoder.vocab_size, rules.eos, batch) if constrained else None
    scorer = TokenScorer(bins)
    engine = Engine(prefill, decoder, rules, config, batch, scorer, grammar, adapters)
    engine.warm_up(longest)
    logger.info(described(shape, inputs.dtype))
    return engine


def shape_of(text: Any, num_image_tokens: int, config: EngineConfig) -> BatchShape:
    """The batch that is wanted; `text` is the configuration of the encoder and decoder."""
    return BatchShape(
        max_batch_size=config.max_batch_size,
        num_beams=config.num_beams,
        num_positions=config.max_new_tokens + 1,
        num_encoded=aligned(num_image_tokens + config.max_text_tokens),
        num_layers=text.decoder_layers,
        num_heads=text.decoder_attention_heads,
        head_width=text.d_model // text.decoder_attention_heads,
    )


def prefer_ready_kernels() -> None:
    """Keep attention off cuDNN, which torch tries first on Hopper and Blackwell.

    It plans every shape anew, for about half a second with a mask (modelscope/FunASR#3704), and
    an engine records some hundred shapes.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def longest_sequence(inputs: Inputs, max_text_tokens: int, image_size: tuple[int, int]) -> Sequence:
    """A black image with the longest prompt."""
    return Sequence(black(image_size), [0] * (inputs.num_image_tokens + max_text_tokens))


def black(size: tuple[int, int]) -> Pixels:
    width, height = size
    return np.zeros((height, width, 3), np.uint8)


@torch.inference_mode()
def bytes_for_batch(prefill: Prefill, longest: Sequence, config: EngineConfig) -> int:
    """Bytes of the GPU that are left for sequences, by what a pass of the encoder takes at most.

    All weights must be there by now, since they count as this process's own.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    prefill([longest] * config.prefill_batch_size).wait()
    torch.cuda.synchronize(device)
    working = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device)
    available = available_bytes(total, free, config.gpu_memory_utilization, own)
    return available - 2 * working  # eager, and recorded


def fitting(shape: BatchShape, dtype: torch.dtype, num_bytes: int) -> int:
    """The sequences that fit into `num_bytes`, at most those of `shape`.

    Raises:
        SetupError: not even one does.
    """
    each = shape.num_bytes(dtype)
    if num_bytes < each:
        raise SetupError(
            f"one sequence takes {each / GB:.2f} GB of the card and "
            f"{max(num_bytes, 0) / GB:.2f} GB are left: set inference.max_new_tokens, "
            "inference.num_beams or inference.image_cache_mb lower, or "
            "inference.gpu_memory_utilization higher"
        )
    return min(shape.max_batch_size, num_bytes // each)


def described(shape: BatchShape, dtype: torch.dtype) -> str:
    each = shape.num_bytes(dtype)
    return (
        f"engine: {shape.max_batch_size} sequences of {each / 1e6:.1f} MB, "
        f"{shape.max_batch_size * each / GB:.2f} GB in all; "
        f"{shape.num_beams} beams, {shape.num_positions - 1} tokens, {dtype}"
    )
