"""Transformers' `generate` with a length imposed on every row of a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from deployments.florence.model import Model
from deployments.florence.request import Query, Tokens


@torch.inference_mode()
def generate(model: Model, queries: Sequence[Query], num_beams: int) -> list[Tokens]:
    """The token ids of each answer, from its start token on, `max_new_tokens` beyond that.

    All go through one pass, which takes as many steps as the longest answer has tokens.
    """
    lengths = [query.max_new_tokens or 0 for query in queries]
    ids, mask = model.padded([query.prompt for query in queries])
    answers: Tensor = model.florence.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=model.normalised([query.pixels for query in queries]),
        max_new_tokens=max(lengths),
        min_new_tokens=max(lengths),  # bans the end, until it is forced
        logits_processor=LogitsProcessorList([Ends(lengths, num_beams, model.rules().eos)]),
        num_beams=num_beams,
        do_sample=False,
        **({"early_stopping": False} if num_beams == 1 else {}),  # would warn
    )
    rows = zip(answers.tolist(), lengths, strict=True)
    return [tuple(row[: length + 1]) for row, length in rows]


class Ends(LogitsProcessor):
    """Forces each row's end as its last token, as transformers does at the longest length."""

    def __init__(self, lengths: Sequence[int], num_beams: int, eos: int) -> None:
        self._lengths = [length for length in lengths for _ in range(num_beams)]
        self._eos = eos

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (rows · beams, words) in which a row that must end can do nothing else."""
        rows = [row for row, length in enumerate(self._lengths) if length == input_ids.shape[1]]
        if rows:
            scores[rows] = float("-inf")
            scores[rows, self._eos] = 0.0
        return scores
