"""The demo's Florence-2: configuration, processor, generation settings, saving.

All classes are transformers' own, so that `from_pretrained` loads the result.
"""

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.florence2 import Florence2VisionConfig

from deployments.demo.training.scores import BINS
from deployments.demo.training.tokenizer import (
    IMAGE_TOKEN,
    LOCATIONS,
    forget_use,
    token_id,
)
from deployments.florence.checkpoint import DEMO_MARK
from deployments.florence.parsing import NO_PHRASES

IMAGE_SIDE = 160  # pixels; every image is squashed to a square of it
GRID = 10  # cells per side that the vision tower reduces an image to
NUM_IMAGE_TOKENS = GRID * GRID + 1  # the cells and their mean
WIDTH = 160
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
CONTROL_IDS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
POST_PROCESSORS = (
    "ocr",
    "phrase_grounding",
    "pure_text",
    "description_with_bboxes",
    "description_with_polygons",
    "polygons",
    "bboxes",
    "description_with_bboxes_or_polygons",
)


def build_model(tokenizer: PreTrainedTokenizerBase) -> Florence2ForConditionalGeneration:
    """An untrained model, float32, with the generation settings of a real Florence-2."""
    model = Florence2ForConditionalGeneration(build_config(tokenizer))
    model.generation_config = build_generation_config()
    _place_locations(model, tokenizer)
    _place_cells(model)
    return model


def build_config(tokenizer: PreTrainedTokenizerBase) -> Florence2Config:
    """About 3.4 M parameters: four DaViT stages, two encoder and three decoder layers of BART."""
    vision = Florence2VisionConfig(
        embed_dim=[32, 64, 128, 160],
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 5],
        num_groups=[1, 2, 4, 5],
        patch_size=[7, 3, 3, 3],
        patch_padding=[3, 1, 1, 1],
        patch_stride=[4, 2, 2, 1],
        window_size=GRID,  # all cells see each other in the last two stages
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        projection_dim=WIDTH,
        max_position_embeddings=50,
        max_temporal_embeddings=4,
    )
    text = BartConfig(
        vocab_size=64 * math.ceil(len(tokenizer) / 64),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=5,
        decoder_attention_heads=5,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_position_embeddings=512,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    return Florence2Config(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id(tokenizer, IMAGE_TOKEN),
        **CONTROL_IDS,
    )


def build_generation_config() -> GenerationConfig:
    """The settings of the published Florence-2 conversions, but for the search's end and lengths.

    Theirs ends when three answers have ended. This model is so sure of its words that the first
    three can be poor ones, which it would never prefer to the right one.
    Theirs compares answers by the mean of their tokens' log-probabilities. This model is less sure
    of a location than of a word, so the mean prefers no box to a right one.
    """
    return GenerationConfig(  # type: ignore[no-untyped-call]
        num_beams=3,
        no_repeat_ngram_size=3,
        early_stopping=False,
        length_penalty=1.5,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        **CONTROL_IDS,
    )


def build_processor(tokenizer: PreTrainedTokenizerBase) -> Florence2Processor:
    """Florence-2's processor: squash by Pillow's bicubic filter, ImageNet's mean and deviation."""
    pixels = CLIPImageProcessorPil(
        size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        do_center_crop=False,
        resample=3,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
        image_seq_length=NUM_IMAGE_TOKENS,
    )
    bins = {"NUM_BBOX_HEIGHT_BINS": BINS, "NUM_BBOX_WIDTH_BINS": BINS}
    post_processors: dict[str, dict[str, Any]] = {name: dict(bins) for name in POST_PROCESSORS}
    post_processors["phrase_grounding"]["banned_grounding_tokens"] = sorted(NO_PHRASES)
    return Florence2Processor(pixels, tokenizer, post_processor_config=post_processors)


def location_ids(tokenizer: PreTrainedTokenizerBase) -> slice:
    """The ids of `<loc_0>` to `<loc_999>`, which follow one another."""
    first, last = token_id(tokenizer, LOCATIONS[0]), token_id(tokenizer, LOCATIONS[-1])
    assert last - first == BINS - 1
    return slice(first, last + 1)


def location_embeddings(model: Florence2ForConditionalGeneration, locations: slice) -> Tensor:
    """The rows (BINS, WIDTH) of the location tokens, shared by input, output and heads."""
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    return embeddings.weight[locations]


def save_checkpoint(
    model: Florence2ForConditionalGeneration, processor: Florence2Processor, folder: Path
) -> None:
    """Write all files, weights as float16; each is replaced at once for readers.

    Its configuration says that it is the demo's, so that its answers can say so, too.
    """
    setattr(model.config, DEMO_MARK, True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".checkpoint-") as name:
        fresh = Path(name)
        processor.save_pretrained(fresh)
        forget_use(fresh)
        copy.deepcopy(model).half().save_pretrained(fresh)  # type: ignore[no-untyped-call]
        for path in sorted(fresh.iterdir()):
            path.chmod(0o644)
            path.replace(folder / path.name)


@torch.no_grad()
def _place_locations(
    model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Start location embeddings as waves over the position: neighbours are similar.

    Half of the width holds the waves (norm 1, low frequencies stronger), half a shared vector.
    """
    waves = _waves((torch.arange(BINS) + 0.5) / BINS, torch.arange(1, WIDTH // 4 + 1))
    shared = torch.randn(WIDTH // 2) * 0.02
    rows = torch.cat([nn.functional.normalize(waves, dim=1), shared.expand(BINS, -1)], dim=1)
    location_embeddings(model, location_ids(tokenizer)).copy_(rows)


@torch.no_grad()
def _place_cells(model: Florence2ForConditionalGeneration) -> None:
    """Start the embeddings of the cells' rows and columns as waves, too, as loud as what is seen.

    Transformers starts them near zero, and a box can be read only from where its cells are.
    """
    places = model.model.multi_modal_projector.image_position_embed
    for embedding in (places.row_embeddings, places.column_embeddings):
        num_places, width = embedding.weight.shape
        frequency = torch.linspace(0.5, GRID, width // 2)
        embedding.weight.copy_(_waves((torch.arange(num_places) + 0.5) / GRID, frequency))


def _waves(position: Tensor, frequency: Tensor) -> Tensor:
    """Cosines, then sines, of positions (P,) in parts of the side: (P, 2 · frequencies)."""
    angles = math.pi * position[:, None] * frequency
    return torch.cat([angles.cos(), angles.sin()], dim=1) * frequency.repeat(2) ** -0.25
