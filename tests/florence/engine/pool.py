"""Queries, and what transformers' `generate` says to each when it runs it alone: the engine's measure.

An answer is worked out once. Whether a batch gives the same tokens must not hang on the last bits
of a sum, so each answer comes with its margin: by how much a score could have been different before
a decision on the way would have gone another way.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from deployments.florence.backends import open_engine
from deployments.florence.engine.engine import Engine
from deployments.florence.model import Model
from deployments.florence.run import Pixels, Query, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import InferenceSettings, ModelSettings

BOS, EOS = 0, 2
MAX_NEW_TOKENS = 16
SHORTER = 7
EXISTS = -1e8  # transformers starts beams that do not exist yet at -1e9
SENTENCES = (*(task.sentence for task in TASKS.values()), "Where?", "What is the " * 9 + "end?")


@dataclass(frozen=True)
class Way:
    """How answers are searched for: what a generation config says."""

    ngram: int = 3
    forced: bool = True
    early_stopping: bool | str = True
    length_penalty: float = 1.0
    min_new_tokens: int = 0
    max_new_tokens: int = MAX_NEW_TOKENS

    def config(self, original: GenerationConfig, num_beams: int) -> GenerationConfig:
        """A checkpoint's own, changed to this."""
        config = deepcopy(original)
        config.num_beams = num_beams
        config.no_repeat_ngram_size = self.ngram
        config.forced_bos_token_id = BOS if self.forced else None
        config.forced_eos_token_id = EOS if self.forced else None
        config.early_stopping = self.early_stopping if num_beams > 1 else False
        config.length_penalty = self.length_penalty
        return config


@dataclass(frozen=True)
class Answer:
    """Token ids from the start token on, and the margin of the closest decision."""

    tokens: Tokens
    margin: float


class Pool:
    """A checkpoint in fp32 on the CPU, and queries to it.

    Args:
        folder: the checkpoint.
        images: one for each query; the prompts take turns.
    """

    def __init__(self, folder: Path, images: Sequence[Pixels]) -> None:
        self.model = loaded(folder)
        self._oracle = loaded(folder)  # its own weights: the engine lays out the other's anew
        self._original = deepcopy(self.model.florence.generation_config)
        prompts = [self.model.checkpoint.prompt(sentence) for sentence in SENTENCES]
        self.prompts = prompts
        self.queries = [
            Query(image, prompts[number % len(prompts)]) for number, image in enumerate(images)
        ]
        self._known: dict[tuple[int, Way, int], Answer] = {}

    def answer(self, number: int, way: Way, num_beams: int) -> Answer:
        """What `generate` says to a query alone."""
        key = number, way, num_beams
        if key not in self._known:
            self._known[key] = self._asked(self.queries[number], way, num_beams)
        return self._known[key]

    def engine(self, way: Way, num_beams: int, num_slots: int, micro_batch: int) -> Engine:
        """An engine that searches this way, with up to `num_beams`."""
        self.model.florence.generation_config = way.config(self._original, num_beams)
        settings = InferenceSettings(
            max_batch_size=num_slots,
            prefill_batch_size=micro_batch,
            num_beams=num_beams,
            max_new_tokens=way.max_new_tokens,
            min_new_tokens=way.min_new_tokens,
        )
        return open_engine(self.model, settings, max(map(len, self.prompts)))

    @torch.inference_mode()
    def _asked(self, query: Query, way: Way, num_beams: int) -> Answer:
        florence, model = self._oracle.florence, self._oracle
        florence.generation_config = way.config(self._original, num_beams)
        margin = Margin(num_beams, way)
        ids, mask = model.padded([query.prompt])
        rows = florence.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=model.normalised([query.pixels]),
            max_new_tokens=way.max_new_tokens,
            min_new_tokens=way.min_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([margin]),
        )
        return Answer(tuple(rows[0].tolist()), margin.smallest())


class Margin(LogitsProcessor):  # type: ignore[misc]
    """Looks on at the end of all processors, and notes how close each decision is.

    Beams are told apart by their tokens: a score is the sum of what was added on the way to them.
    """

    def __init__(self, num_beams: int, way: Way) -> None:
        self._num_beams = num_beams
        self._way = way
        self._totals: dict[Tokens, float] = {}
        self._gaps = [float("inf")]
        self._compared: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores as they are: (beams, words)."""
        before = self._before([tuple(row) for row in input_ids.tolist()])
        totals = scores + torch.tensor(before)[:, None]
        count = 2 * self._num_beams + 1 if self._num_beams > 1 else 2
        best, index = totals.flatten().topk(count)
        self._gaps += [a - b for a, b in pairwise(best.tolist()) if b > EXISTS]
        self._remember(input_ids, best.tolist(), index.tolist(), scores.shape[1])
        return scores

    def smallest(self) -> float:
        """The closest that any two scores came that were compared."""
        ranked = sorted(set(self._compared))
        return min(self._gaps + [b - a for a, b in pairwise(ranked)])

    def _before(self, sequences: list[Tokens]) -> list[float]:
        """The scores of the beams so far; one that says the same as an earlier one is none."""
        seen: set[Tokens] = set()
        found = []
        for sequence in sequences:
            found.append(10 * EXISTS if sequence in seen else self._totals.get(sequence, 0.0))
            seen.add(sequence)
        return found

    def _remember(self, ids: Tensor, best: list[float], index: list[int], words: int) -> None:
        """What comes next; in a beam search ended sequences are compared with running ones."""
        length = ids.shape[1]
        self._totals = {}
        for total, place in zip(best, index, strict=True):
            beam, word = divmod(place, words)
            self._totals[(*ids[beam].tolist(), word)] = total if self._num_beams > 1 else 0.0
            ended = word == EOS or length == self._way.max_new_tokens
            if self._num_beams > 1 and ended and total > EXISTS:
                self._compared.append(total / length**self._way.length_penalty)


def loaded(folder: Path) -> Model:
    """The checkpoint, with nothing forced but by its generation config."""
    model = Model(ModelSettings(path=str(folder), device="cpu", dtype="float32"))
    model.florence.config.text_config.forced_eos_token_id = None
    return model


def colours(seed: int, size: tuple[int, int]) -> Pixels:
    """Four random colours that run into each other; `size` is (width, height)."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC))
