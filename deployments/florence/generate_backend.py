"""The backend that calls transformers' `generate`: what the engine is compared with, and its
fallback.

A whole batch goes through one pass, which no sequence can join and which ends with the longest.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from deployments.florence.engine.device import device_faults
from deployments.florence.model import Model
from deployments.florence.sequence import Progress, Sequence, Sequences, Tokens
from deployments.florence.token_scores import NEAR_BINS, TokenScorer
from deployments.settings import InferenceSettings

# What a search without beams has no use for: transformers warns of it, and saves no such config.
GREEDY = {"early_stopping": False, "length_penalty": 1.0}


class Generate:
    """A `Backend` whose step is one pass over up to `max_batch_size` sequences."""

    def __init__(self, model: Model, settings: InferenceSettings) -> None:
        self._model = model
        self._settings = settings
        self._scorer = TokenScorer(model.checkpoint.vocabulary.bins)
        self._sequences: list[Sequence] = []

    @property
    def max_batch_size(self) -> int:
        return self._settings.max_batch_size

    @property
    def prefill_batch_size(self) -> int:
        """As many: all begin together."""
        return self.max_batch_size

    def add(self, sequences: Sequences) -> None:
        self._sequences += sequences

    @device_faults()
    def step(self) -> list[Sequence]:
        """One pass, for each choice of bounds; all sequences have ended after it."""
        sequences, self._sequences = self._sequences, []
        for group in grouped(sequences):
            self._generate(group)
        return sequences

    @device_faults()
    def probe(self) -> None:
        """One short pass of the example by itself."""
        self._generate([self._example], min_new_tokens=0)

    def preempt(self, _sequence: Sequence) -> bool:
        """Impossible: a pass cannot be interrupted."""
        return False

    def drop(self, sequence: Sequence) -> None:
        self._sequences = [each for each in self._sequences if each is not sequence]

    def reset(self) -> None:
        self._sequences = []

    def progress(self, _sequences: Sequences) -> dict[Sequence, Progress]:
        """Nothing: `generate` returns at its end."""
        return {}

    def warm_up(self, sequence: Sequence) -> None:
        """Run `sequence` alone and as a full batch, so that no client waits for it.

        It is the example of `probe` from now on.
        """
        self._example = replace(sequence, max_new_tokens=4)
        for size in {1, self.max_batch_size}:
            self._generate([self._example] * size, min_new_tokens=0)

    def answers(self, sequences: Sequences) -> list[Tokens]:
        """The tokens of each sequence, from the start token on."""
        self.add(sequences)
        self.step()
        return [sequence.tokens for sequence in sequences]

    @torch.inference_mode()
    def _generate(self, sequences: Sequences, **changed: Any) -> None:
        """Set the tokens of each sequence, from the start token on, without padding."""
        model, first = self._model, sequences[0]
        ids, mask = model.padded([sequence.prompt for sequence in sequences])
        options = generate_options(model, self._settings, first) | changed
        end = NotedEnd(model.florence.generation_config, options["max_new_tokens"])
        output: Any = model.florence.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=model.normalised([sequence.pixels for sequence in sequences]),
            stopping_criteria=StoppingCriteriaList([StopUnwanted(sequences)]),
            logits_processor=LogitsProcessorList([end]),
            forced_eos_token_id=None,  # in a whole config, None would be the checkpoint's again
            return_dict_in_generate=True,
            output_logits=first.scored,
            **options,
        )
        windows = self._windows(output) if first.scored else None
        for number, (sequence, row) in enumerate(
            zip(sequences, output.sequences.tolist(), strict=True)
        ):
            sequence.tokens = tuple(id_ for id_ in row if id_ != model.pad)
            sequence.truncated = end.cut(sequence.tokens)
            if windows is not None:
                tokens = sequence.tokens[1:]
                sequence.scores = self._scorer(tokens, windows[number, : len(tokens)])

    def _windows(self, output: Any) -> NDArray[np.float32]:
        """The log-probabilities of the ids about each token's own: (sequences, tokens, WINDOW)."""
        near = [
            self._model.florence.compute_transition_scores(
                (output.sequences + offset).clamp(0, output.logits[0].shape[-1] - 1),
                output.logits,
                getattr(output, "beam_indices", None),
                normalize_logits=True,
            )
            for offset in range(-NEAR_BINS, NEAR_BINS + 1)
        ]
        return torch.stack(near, dim=-1).cpu().numpy()


class NotedEnd(LogitsProcessor):
    """Forces the last token, as transformers does, and notes what would have come instead.

    Comes as the last of the processors.
    """

    def __init__(self, config: GenerationConfig, max_new_tokens: int) -> None:
        self._eos = config.eos_token_id
        self._forced = config.forced_eos_token_id
        self._limit = max_new_tokens  # the length before the last token, with the start token
        self._cut: dict[Tokens, bool] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (beams, V)."""
        if self._forced is None or input_ids.shape[1] != self._limit:
            return scores
        wanted = (scores.argmax(dim=-1) != self._eos).tolist()
        self._cut |= zip(map(tuple, input_ids.tolist()), wanted, strict=True)
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self._forced] = 0.0
        return forced

    def cut(self, tokens: Tokens) -> bool:
        """Whether an answer would have gone on beyond its limit."""
        if len(tokens) <= self._limit:
            return False
        return self._cut.get(tokens[:-1], bool(tokens[-1] != self._eos))


class StopUnwanted(StoppingCriteria):
    """Ends the sequences that are not wanted any more; the tokens of the others do not change."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences
        self._unwanted: set[int] = set()

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_more: Any) -> torch.BoolTensor:
        """Which beams end here: a flag for each beam, sequence by sequence."""
        shape = len(self._sequences), len(input_ids) // len(self._sequences)  # (sequences, beams)
        ended = torch.zeros(shape, dtype=torch.bool, device=input_ids.device)
        self._unwanted |= {n for n, each in enumerate(self._sequences) if not each.is_wanted()}
        ended[sorted(self._unwanted)] = True
        return ended.flatten()  # type: ignore[return-value]


def grouped(sequences: Sequences) -> list[list[Sequence]]:
    """The sequences by their bounds: those of a pass have the same."""
    found: dict[object, list[Sequence]] = {}
    for sequence in sequences:
        bounds = (
            sequence.num_beams,
            sequence.max_new_tokens,
            sequence.no_repeat_ngram_size,
            sequence.scored,
        )
        found.setdefault(bounds, []).append(sequence)
    return list(found.values())


def generate_options(
    model: Model, settings: InferenceSettings, sequence: Sequence
) -> dict[str, Any]:
    """What `generate` is asked for beyond the checkpoint's own generation config."""
    wanted = sequence.max_new_tokens or settings.max_new_tokens
    longest = min(wanted, settings.max_new_tokens, model.checkpoint.max_positions - 1)
    options: dict[str, Any] = {
        "max_new_tokens": longest,
        "min_new_tokens": min(settings.min_new_tokens, longest),
        "do_sample": False,
    }
    if num_beams := sequence.num_beams or settings.num_beams:
        options["num_beams"] = num_beams
    ngram = sequence.no_repeat_ngram_size
    if (ngram := settings.no_repeat_ngram_size if ngram is None else ngram) is not None:
        options["no_repeat_ngram_size"] = ngram
    if num_beams == 1:
        options |= GREEDY
    return options
