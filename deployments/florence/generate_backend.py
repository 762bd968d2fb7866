"""The backend that calls transformers' `generate`: what the engine is compared with, and its
fallback.

A whole batch goes through one pass, which no sequence can join and which ends with the longest.
"""

from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from deployments.florence.model import Model
from deployments.florence.sequence import Sequence, Sequences, Tokens
from deployments.settings import InferenceSettings


class Generate:
    """A `Backend` whose step is one pass over up to `max_batch_size` sequences."""

    def __init__(self, model: Model, settings: InferenceSettings) -> None:
        self._model = model
        self._settings = settings
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

    def step(self) -> list[Sequence]:
        """One pass, for each choice of bounds; all sequences have ended after it."""
        sequences, self._sequences = self._sequences, []
        for group in grouped(sequences):
            self._generate(group)
        return sequences

    def preempt(self, _sequence: Sequence) -> bool:
        """Impossible: a pass cannot be interrupted."""
        return False

    def drop(self, sequence: Sequence) -> None:
        self._sequences = [each for each in self._sequences if each is not sequence]

    def reset(self) -> None:
        self._sequences = []

    def progress(self, _sequence: Sequence) -> Tokens | None:
        """Nothing: `generate` returns at its end."""
        return None

    def warm_up(self, sequence: Sequence) -> None:
        """Run `sequence` alone and as a full batch, so that no client waits for it."""
        for size in {1, self.max_batch_size}:
            self._generate([sequence] * size, max_new_tokens=4, min_new_tokens=0)

    def answers(self, sequences: Sequences) -> list[Tokens]:
        """The tokens of each sequence, from the start token on."""
        self.add(sequences)
        self.step()
        return [sequence.tokens for sequence in sequences]

    @torch.inference_mode()
    def _generate(self, sequences: Sequences, **changed: Any) -> None:
        """Set the tokens of each sequence, from the start token on, without padding."""
        ids, mask = self._model.padded([sequence.prompt for sequence in sequences])
        rows = self._model.florence.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=self._model.normalised([sequence.pixels for sequence in sequences]),
            stopping_criteria=StoppingCriteriaList([StopUnwanted(sequences)]),
            **generate_options(self._model, self._settings, sequences[0]) | changed,
        )
        pad = self._model.pad
        for sequence, row in zip(sequences, rows.tolist(), strict=True):
            sequence.tokens = tuple(id_ for id_ in row if id_ != pad)


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
        found.setdefault((sequence.num_beams, sequence.max_new_tokens), []).append(sequence)
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
    if num_beams == 1:
        options["early_stopping"] = False
    return options
