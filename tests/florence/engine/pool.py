"""Sequences, and the answer of transformers' `generate` to each alone.

An answer is worked out once. Whether a batch gives the same tokens must not hang on the last bits
of a sum, so each answer comes with its margin: by how much a score could have been different before
a decision on the way would have gone another way.
"""

import collections.abc
import random
from collections.abc import Callable, Iterable
from copy import copy, deepcopy
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
)

from deployments.demo.scenes import draw_scene
from deployments.florence.engine.build import build
from deployments.florence.engine.engine import Engine, EngineConfig
from deployments.florence.engine.low_rank import Adapters
from deployments.florence.image_cache import ImageCache
from deployments.florence.model import Model
from deployments.florence.sequence import Pixels, Sequence, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import ModelSettings
from tests.florence.questions import input_of

BOS, EOS = 0, 2
Paint = Callable[[int, tuple[int, int]], Pixels]
EXISTS = -1e8  # transformers starts beams that do not exist yet at -1e9
MARGIN = 1e-4  # sums in another order move a score by 1e-5, and those of deep models by some more
TASK_SENTENCES = tuple(task.prompt(input_of(task), (640, 480)) for task in TASKS.values())
SENTENCES = (*TASK_SENTENCES, "Where?", "What is the " * 9 + "end?")


@dataclass(frozen=True)
class Way:
    """How answers are searched for: a generation config, and the lengths."""

    ngram: int = 3
    forced: bool = True
    early_stopping: bool | str = True
    length_penalty: float = 1.0
    max_new_tokens: int = 16
    min_new_tokens: int = 0

    def config(self, own: GenerationConfig, num_beams: int) -> GenerationConfig:
        """A checkpoint's own config, changed to this."""
        config = deepcopy(own)
        config.num_beams = num_beams
        config.no_repeat_ngram_size = self.ngram
        config.forced_bos_token_id = BOS if self.forced else None
        config.forced_eos_token_id = EOS if self.forced else None
        config.early_stopping = self.early_stopping if num_beams > 1 else False
        config.length_penalty = self.length_penalty
        return config


@dataclass(frozen=True)
class Answer:
    """Token ids from the start token on, and the margin of the closest decision.

    `logprobs` are those of the tokens after the start token, as transformers computes them;
    `largest` is the largest logit of all, by which fp32 rounds them;
    a truncated answer would have gone on beyond its limit.
    """

    tokens: Tokens
    margin: float
    logprobs: tuple[float, ...]
    largest: float
    truncated: bool

    @property
    def is_clear(self) -> bool:
        """Whether it is no near-tie, in which the last bits of a sum decide."""
        return self.margin > MARGIN


class Pool:
    """Sequences for a checkpoint in fp32 on the CPU: every task's prompt, and two more.

    Args:
        paint: an image of a seed and a size, (width, height).
    """

    def __init__(self, folder: Path, paint: Paint) -> None:
        self.model = loaded(folder)
        self.adapters: Adapters | None = None  # those that are attached to the model
        self._alone = loaded(folder)  # its own weights: the engine lays out the other's anew
        self._config = deepcopy(self.model.florence.generation_config)
        self._prompts = [self.model.checkpoint.prompt(sentence) for sentence in SENTENCES]
        size = self.model.checkpoint.image_size
        self.sequences = [
            Sequence(paint(seed, size), prompt) for seed, prompt in enumerate(self._prompts)
        ]
        self._known: dict[tuple[int, Way, int], Answer] = {}

    def clear(self, way: Way, beams: Iterable[int]) -> Self:
        """The same with those of its sequences alone that are clear with any of these beams."""
        kept = copy(self)
        kept.sequences = [
            sequence
            for number, sequence in enumerate(self.sequences)
            if all(self.answer(number, way, num_beams).is_clear for num_beams in beams)
        ]
        kept._known = {}
        return kept

    def answer(self, number: int, way: Way, num_beams: int) -> Answer:
        """The answer of `generate` to a sequence alone."""
        key = number, way, num_beams
        if key not in self._known:
            self._known[key] = self.ask(self.sequences[number], way, num_beams)
        return self._known[key]

    def engine(
        self,
        way: Way,
        num_beams: int,
        max_batch_size: int,
        prefill_batch_size: int,
        launch_ahead: bool = False,
        image_cache: ImageCache[Tensor] | None = None,
    ) -> Engine:
        """An engine that searches this way, with so many beams unless a sequence asks for fewer."""
        model = self.model
        model.florence.generation_config = way.config(self._config, num_beams)
        config = EngineConfig(
            max_batch_size=max_batch_size,
            prefill_batch_size=prefill_batch_size,
            num_beams=num_beams,
            max_new_tokens=way.max_new_tokens,
            max_text_tokens=max(map(len, self._prompts)) - model.checkpoint.num_image_tokens,
            min_new_tokens=way.min_new_tokens,
            launch_ahead=launch_ahead,
        )
        image_size = model.checkpoint.image_size
        bins = model.checkpoint.vocabulary.bins
        return build(
            model.florence,
            model.inputs,
            model.rules(),
            config,
            image_size,
            image_cache,
            bins,
            adapters=self.adapters,
        )

    @torch.inference_mode()
    def ask(self, sequence: Sequence, way: Way, num_beams: int) -> Answer:
        """The answer of `generate` to any sequence alone, searched for this way."""
        model, margin = self._alone, Margin(num_beams, way)
        model.florence.generation_config = way.config(self._config, num_beams)
        ids, mask = model.padded([sequence.prompt])
        output = model.florence.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=model.normalised([sequence.pixels]),
            max_new_tokens=way.max_new_tokens,
            min_new_tokens=way.min_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([margin]),
            return_dict_in_generate=True,
            output_logits=True,
        )
        logprobs = model.florence.compute_transition_scores(
            output.sequences, output.logits, output.get("beam_indices"), normalize_logits=True
        )
        tokens = tuple(output.sequences[0].tolist())
        largest = max(float(logits.abs().max()) for logits in output.logits)
        scores = tuple(logprobs[0].tolist())
        return Answer(tokens, margin.smallest(), scores, largest, is_cut(output, way))


def is_cut(output: Any, way: Way) -> bool:
    """Whether an answer would have gone on, had its end not been forced at the limit."""
    sequence = output.sequences[:1]
    if sequence.shape[1] <= way.max_new_tokens:
        return False
    beam = 0 if output.get("beam_indices") is None else int(output.beam_indices[0, -1])
    scores = output.logits[way.max_new_tokens - 1][beam, None].clone()
    processors = LogitsProcessorList(
        [MinNewTokensLengthLogitsProcessor(1, way.min_new_tokens, EOS, device="cpu")]
    )
    if way.ngram:
        processors.append(NoRepeatNGramLogitsProcessor(way.ngram))
    if way.forced:
        processors.append(ForcedBOSTokenLogitsProcessor(BOS))
    wanted = int(processors(sequence[:, :-1], scores).argmax())
    return (wanted if way.forced else int(sequence[0, -1])) != EOS


class Margin(LogitsProcessor):
    """Looks on as the last of the processors, and notes how near to each other scores come.

    A beam is known by its tokens; its score is the sum of all that was added on the way.
    """

    def __init__(self, num_beams: int, way: Way) -> None:
        self._num_beams = num_beams
        self._way = way
        self._scores: dict[Tokens, float] = {}
        self._gaps: list[float] = []
        self._rivals: set[tuple[float, float]] = set()  # beams that have ended or lead

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores as they are: (beams, words)."""
        beams: list[Tokens] = [tuple(row) for row in input_ids.tolist()]
        before = torch.tensor([self._before(beams[:n], beam) for n, beam in enumerate(beams)])
        reached: dict[Tokens, float] = {}
        count = 2 if self._num_beams == 1 else 2 * self._num_beams + 1
        best, places = (scores + before[:, None]).flatten().topk(count)
        self._gaps += [a - b for a, b in pairwise(best.tolist()) if b > EXISTS]
        for score, place in zip(best.tolist(), places.tolist(), strict=True):
            beam, word = divmod(place, scores.shape[1])
            reached.setdefault((*beams[beam], word), score)
        self._note(reached)
        return scores

    def smallest(self) -> float:
        """The least distance between a chosen score and one that was not chosen."""
        ranked = pairwise(sorted(self._rivals))
        return min(
            [*self._gaps, *((b - a) * min(m, n) for (a, m), (b, n) in ranked if b > a)], default=inf
        )

    def _before(self, others: collections.abc.Sequence[Tokens], beam: Tokens) -> float:
        """The score of a beam so far; at first all say the same, and only one exists."""
        return 10 * EXISTS if beam in others else self._scores.get(beam, 0.0)

    def _note(self, scores: dict[Tokens, float]) -> None:
        if self._num_beams == 1:
            return
        self._scores = scores
        best = max(scores.values())
        for tokens, score in scores.items():
            length = len(tokens) - 1
            penalty = length**self._way.length_penalty
            over = tokens[-1] == EOS or length == self._way.max_new_tokens
            if score > EXISTS and (over or score == best):
                self._rivals.add((score / penalty, penalty))


def loaded(folder: Path) -> Model:
    """The checkpoint, in which nothing but the generation config forces a token."""
    model = Model(ModelSettings(path=str(folder), device="cpu", dtype="float32"))
    model.florence.config.text_config.forced_eos_token_id = None
    return model


def scene(seed: int, size: tuple[int, int]) -> Pixels:
    """One of the demo's scenes."""
    drawn = draw_scene(random.Random(seed), (320, 240)).image
    return np.asarray(drawn.resize(size, Image.Resampling.BICUBIC))


def colours(seed: int, size: tuple[int, int]) -> Pixels:
    """Four random colours that run into each other."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC))
