"""Models to measure, with random weights made where they compute."""

import collections.abc
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from deployments.florence.engine.build import build
from deployments.florence.engine.engine import Engine, EngineConfig
from deployments.florence.engine.prefill import Inputs
from deployments.florence.engine.search import GenerationRules
from deployments.florence.image_cache import ImageCache
from deployments.florence.sequence import Sequence, Sequences, Tokens

SEED = 0
NUM_TEXT_TOKENS = 14  # of a prompt, its frame included, as most of Florence-2's sentences have
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in its processor
BOS, PAD, EOS = 0, 1, 2
NGRAM = 3  # tokens that may not come twice, as in its generation config


@dataclass(frozen=True)
class ModelShape:
    """How large a Florence-2 is, in the names of transformers' configuration; square images."""

    embed_dim: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    d_model: int
    layers: int
    heads: int
    vocabulary: int
    side: int

    @property
    def num_image_tokens(self) -> int:
        """The mean, and one for each 32×32 pixels."""
        return (self.side // 32) ** 2 + 1

    def config(self) -> Florence2Config:
        """The rest is as in florence-community/Florence-2-large."""
        vision = {
            "embed_dim": self.embed_dim,
            "depths": self.depths,
            "num_heads": self.num_heads,
            "num_groups": self.num_heads,
            "projection_dim": self.d_model,
        }
        text = {
            "model_type": "bart",
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "d_model": self.d_model,
            "encoder_layers": self.layers,
            "decoder_layers": self.layers,
            "encoder_attention_heads": self.heads,
            "decoder_attention_heads": self.heads,
            "encoder_ffn_dim": 4 * self.d_model,
            "decoder_ffn_dim": 4 * self.d_model,
            "bos_token_id": BOS,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
            "decoder_start_token_id": EOS,
        }
        return Florence2Config(
            vision_config=vision, text_config=text, image_token_id=self.vocabulary - 1
        )


# 777 M parameters; the vocabulary is padded to a multiple of 64, as transformers' conversion does.
LARGE = ModelShape((256, 512, 1024, 2048), (1, 1, 9, 1), (8, 16, 32, 64), 1024, 12, 16, 51328, 768)
BASE = ModelShape((128, 256, 512, 1024), (1, 1, 9, 1), (4, 8, 16, 32), 768, 6, 12, 51328, 768)
SMALL = ModelShape((32, 64, 128, 256), (1, 1, 2, 1), (1, 2, 4, 8), 128, 3, 4, 1472, 128)


@dataclass(frozen=True)
class BenchModel:
    """A model with what its engine and its `generate` need; `image` is (width, height)."""

    florence: Any
    inputs: Inputs
    rules: GenerationRules
    image: tuple[int, int]

    def engine(
        self, config: EngineConfig, image_cache: ImageCache[torch.Tensor] | None = None
    ) -> Engine:
        return build(self.florence, self.inputs, self.rules, config, self.image, image_cache)

    @torch.inference_mode()
    def is_finite(self) -> bool:
        [sequence], device = self.sequences([1]), self.florence.device
        images = self.inputs.images([sequence.pixels]).permute(0, 3, 1, 2)
        prompt, start = (torch.tensor([ids], device=device) for ids in (sequence.prompt, [EOS]))
        scores = self.florence(prompt, images, decoder_input_ids=start).logits
        return bool(scores.isfinite().all())

    def sequences(self, lengths: collections.abc.Sequence[int]) -> list[Sequence]:
        """Noise and random words for each length."""
        noise, (width, height) = np.random.default_rng(SEED), self.image
        image = [self.florence.config.image_token_id] * self.inputs.num_image_tokens
        return [
            Sequence(
                noise.integers(0, 256, (height, width, 3), np.uint8),
                [*image, BOS, *noise.integers(3, 1000, NUM_TEXT_TOKENS - 2).tolist(), EOS],
                max_new_tokens=length,
            )
            for length in lengths
        ]

    @torch.inference_mode()
    def generate(self, sequences: Sequences, num_beams: int, **options: Any) -> list[Tokens]:
        """What transformers says in one pass, padding included."""
        prompts = torch.tensor([list(sequence.prompt) for sequence in sequences])
        images = self.inputs.images([sequence.pixels for sequence in sequences])
        answers: torch.Tensor = self.florence.generate(
            input_ids=prompts.to(images.device),
            attention_mask=torch.ones_like(prompts).to(images.device),
            pixel_values=images.permute(0, 3, 1, 2).contiguous(),
            num_beams=num_beams,
            early_stopping=num_beams > 1,
            do_sample=False,
            **options,
        )
        return [tuple(row) for row in answers.tolist()]


def random_model(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> BenchModel:
    """A model of this shape, always the same on the same device."""
    torch.manual_seed(SEED)
    with device:
        florence: Any = Florence2ForConditionalGeneration(shape.config())
    florence.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        decoder_start_token_id=EOS,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        forced_bos_token_id=BOS,
        forced_eos_token_id=EOS,
        no_repeat_ngram_size=NGRAM,
    )
    return on_device(florence.to(dtype).eval(), shape.side, shape.num_image_tokens)


def on_device(florence: Any, side: int, num_image_tokens: int) -> BenchModel:
    device, dtype = florence.device, florence.dtype
    mean, std = (torch.tensor(values, device=device) for values in (MEAN, STD))
    inputs = Inputs(mean, std, num_image_tokens, PAD, None, dtype)
    rules = GenerationRules(EOS, PAD, EOS, BOS, EOS, NGRAM, early_stopping=True, length_penalty=1.0)
    return BenchModel(florence, inputs, rules, (side, side))


def imposed(
    num_beams: int, longest: int, max_batch_size: int, prefill_batch_size: int
) -> EngineConfig:
    """An engine in which every answer has just the length that its sequence asks for."""
    return EngineConfig(
        max_batch_size=max_batch_size,
        prefill_batch_size=prefill_batch_size,
        num_beams=num_beams,
        max_new_tokens=longest,
        max_text_tokens=NUM_TEXT_TOKENS,
        min_new_tokens=longest,
    )
