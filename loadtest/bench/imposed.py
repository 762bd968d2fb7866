"""Transformers' `generate` with a length imposed on every sequence of a batch."""

import collections.abc
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from deployments.florence.model import Model
from deployments.florence.sequence import Sequences, Tokens


@torch.inference_mode()
def generate(model: Model, sequences: Sequences, num_beams: int) -> list[Tokens]:
    """The token ids of each answer, from its start token on, `max_new_tokens` beyond that.

    All go through one pass, which takes as many steps as the longest answer has tokens.
    """
    lengths = [sequence.max_new_tokens or 0 for sequence in sequences]
    ids, mask = model.padded([sequence.prompt for sequence in sequences])
    answers: Tensor = model.florence.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=model.normalised([sequence.pixels for sequence in sequences]),
        max_new_tokens=max(lengths),
        min_new_tokens=max(lengths),  # bans the end, until it is forced
        logits_processor=LogitsProcessorList([Ends(lengths, num_beams, model.rules().eos)]),
        num_beams=num_beams,
        do_sample=False,
        **({"early_stopping": False} if num_beams == 1 else {}),  # would warn
    )
    pairs = zip(answers.tolist(), lengths, strict=True)
    return [tuple(tokens[: length + 1]) for tokens, length in pairs]


class Ends(LogitsProcessor):
    """Forces each sequence's end as its last token, as transformers does at the longest length."""

    def __init__(self, lengths: collections.abc.Sequence[int], num_beams: int, eos: int) -> None:
        self._lengths = [length for length in lengths for _ in range(num_beams)]
        self._eos = eos

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (sequences · beams, words); a beam that must end can do nothing else."""
        ends = [beam for beam, length in enumerate(self._lengths) if length == input_ids.shape[1]]
        if ends:
            scores[ends] = float("-inf")
            scores[ends, self._eos] = 0.0
        return scores
