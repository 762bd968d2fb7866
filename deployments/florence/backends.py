"""The backend that the settings name, over a loaded model."""

from collections.abc import Sequence

from torch import Tensor

from deployments.errors import SetupError
from deployments.florence.backend import Backend
from deployments.florence.cache import Cache
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.engine.build import Size, black, build
from deployments.florence.engine.engine import Engine, Options
from deployments.florence.engine.inputs import Inputs
from deployments.florence.generate import Generate
from deployments.florence.model import Model
from deployments.florence.request import Query, Tokens
from deployments.settings import InferenceSettings


def open_backend(
    model: Model,
    settings: InferenceSettings,
    prompts: Sequence[Sequence[int]],
    cache: Cache[Tensor] | None = None,
) -> Backend[Query, Tokens]:
    """A warm backend that has read the longest of `prompts`; an engine keeps images in `cache`.

    Raises:
        SetupError: the settings ask for what it cannot do.
    """
    if settings.backend == "generate" and settings.constrained:
        raise SetupError(
            "transformers' generate knows no inference.constrained: set inference.backend to engine"
        )
    if settings.backend == "generate":
        backend = Generate(model, settings)
        backend.warm_up(Query(black(model.checkpoint.image_size), max(prompts, key=len)))
        return backend
    return open_engine(model, settings, max(map(len, prompts)), cache)


def open_engine(
    model: Model,
    settings: InferenceSettings,
    longest_prompt: int,
    cache: Cache[Tensor] | None = None,
) -> Engine:
    """The engine for prompts of up to `longest_prompt` tokens, their image included."""
    checkpoint = model.checkpoint
    num_image_tokens = checkpoint.num_image_tokens
    inputs = Inputs(model.mean, model.std, num_image_tokens, model.pad, None, model.dtype)
    options = options_of(settings, checkpoint, model.num_beams)
    size = size_of(settings, longest_prompt - num_image_tokens)
    bins = checkpoint.vocabulary.bins if settings.constrained else None
    rules, image = model.rules(), checkpoint.image_size
    return build(model.florence, inputs, rules, options, size, image, cache, bins)


def options_of(settings: InferenceSettings, checkpoint: Checkpoint, num_beams: int) -> Options:
    """How answers are searched for; `num_beams` where the settings say nothing."""
    longest = min(settings.max_new_tokens, checkpoint.max_positions - 1)
    return Options(
        num_beams=settings.num_beams or num_beams,
        max_new_tokens=longest,
        min_new_tokens=min(settings.min_new_tokens, longest),
        micro_batch=min(settings.prefill_batch_size, settings.max_batch_size),
    )


def size_of(settings: InferenceSettings, num_words: int) -> Size:
    """How much the engine is to hold; `num_words` is the longest prompt without its image."""
    return Size(
        num_rows=settings.max_batch_size,
        num_words=num_words,
        utilization=settings.gpu_memory_utilization,
    )
