"""Opens the backend that the settings name, over a loaded model."""

import collections.abc
from dataclasses import replace

from torch import Tensor

from deployments.errors import SetupError
from deployments.florence.backend import Backend
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.engine.build import black, build
from deployments.florence.engine.device import setup_errors
from deployments.florence.engine.engine import Engine, EngineConfig
from deployments.florence.engine.low_rank import attach
from deployments.florence.engine.search import GenerationRules
from deployments.florence.generate_backend import Generate
from deployments.florence.image_cache import ImageCache
from deployments.florence.model import Model
from deployments.florence.prompts import usual_length
from deployments.florence.sequence import Sequence
from deployments.settings import InferenceSettings

LESS = "set inference.max_batch_size or inference.prefill_batch_size lower"


def open_backend(
    model: Model,
    settings: InferenceSettings,
    prompts: collections.abc.Sequence[collections.abc.Sequence[int]],
    image_cache: ImageCache[Tensor] | None = None,
) -> Backend:
    """A warm backend for `prompts`, token ids each; only an engine uses `image_cache`.

    Raises:
        SetupError: the settings ask for what it cannot do, or the device cannot do it.
    """
    with setup_errors("its batches", LESS):
        return opened(model, settings, prompts, image_cache)


def opened(
    model: Model,
    settings: InferenceSettings,
    prompts: collections.abc.Sequence[collections.abc.Sequence[int]],
    image_cache: ImageCache[Tensor] | None,
) -> Backend:
    if settings.backend == "engine":
        return open_engine(model, settings, max(map(len, prompts)), image_cache)
    if settings.constrained:
        raise SetupError(
            "transformers' generate knows no inference.constrained: set inference.backend to engine"
        )
    if model.adapters:
        raise SetupError(
            "transformers' generate knows no model.adapters: set inference.backend to engine, "
            "or merge one with florence convert"
        )
    backend = Generate(model, settings)
    backend.warm_up(Sequence(black(model.checkpoint.image_size), max(prompts, key=len)))
    return backend


def open_engine(
    model: Model,
    settings: InferenceSettings,
    longest_prompt: int,
    image_cache: ImageCache[Tensor] | None = None,
) -> Engine:
    """A warm engine for prompts of up to `longest_prompt` tokens, the image's included."""
    checkpoint = model.checkpoint
    return build(
        model.florence,
        model.inputs,
        with_settings(model.rules(), settings),
        engine_config(settings, checkpoint, longest_prompt, model.num_beams),
        checkpoint.image_size,
        image_cache,
        checkpoint.vocabulary.bins,
        settings.constrained,
        attach(model.florence, model.adapters),
    )


def with_settings(rules: GenerationRules, settings: InferenceSettings) -> GenerationRules:
    """The checkpoint's rules, but for what is set."""
    ngram = settings.no_repeat_ngram_size
    return rules if ngram is None else replace(rules, ngram=ngram)


def engine_config(
    settings: InferenceSettings, checkpoint: Checkpoint, longest_prompt: int, num_beams: int
) -> EngineConfig:
    """The settings as an engine takes them; `num_beams` where they say nothing."""
    max_new_tokens = min(settings.max_new_tokens, checkpoint.max_positions - 1)
    return EngineConfig(
        max_batch_size=settings.max_batch_size,
        prefill_batch_size=min(settings.prefill_batch_size, settings.max_batch_size),
        num_beams=settings.num_beams or num_beams,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min(settings.min_new_tokens, max_new_tokens),
        max_text_tokens=longest_prompt - checkpoint.num_image_tokens,
        usual_prompt_tokens=min(usual_length(checkpoint), longest_prompt),
        gpu_memory_utilization=settings.gpu_memory_utilization,
    )
