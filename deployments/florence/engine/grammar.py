"""Constrained decoding: boxes that are complete and have their corners in order.

Florence-2 writes a box as four location tokens, x1 y1 x2 y2. Inside such a group only locations
may come, the third beyond the first and the fourth beyond the second; a sequence of nothing but
boxes may only go on or end between two of them. What a well-behaved model says does not change.
Shapes: n rows, k lanes, V words.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from deployments.florence.engine.rows import Rows, View
from deployments.florence.request import Grammar

GROUP = 4  # location tokens of a box
NONE = -1  # the bin of a word that is no location


class Boxes:
    """Rules out what would not be a box.

    Args:
        bins: location tokens: id → bin.
        num_words: V, the words that the model scores.
    """

    def __init__(self, bins: Mapping[int, int], num_words: int, eos: int, rows: Rows) -> None:
        table = torch.full((num_words,), NONE)
        for id_, bin_ in bins.items():
            table[id_] = bin_
        self._bins = table.to(rows.device)
        self._last_bin = max(bins.values())
        self._between = self._bins != NONE
        self._between[eos] = True
        self._rows = rows

    def restrict(self, scores: Tensor, view: View) -> None:
        """Rule out in `scores` (n, k, V) what each row's grammar forbids."""
        kind = self._rows.grammar[: view.num_rows, None]
        in_group = self._num_locations(view) % GROUP
        allowed = self._bins > self._least(in_group, view)[..., None]
        allowed |= ((in_group == 0) & (kind != Grammar.BOXES))[..., None]
        allowed |= ((in_group == 0) & (kind == Grammar.BOXES))[..., None] & self._between
        allowed |= (kind == Grammar.FREE)[..., None]
        scores.masked_fill_(~allowed, float("-inf"))

    def _num_locations(self, view: View) -> Tensor:
        """The location tokens at the end of each sequence: (n, k)."""
        other = self._bins[view.tokens] == NONE
        other &= (view.places < view.length[:, None])[:, None]
        last_other = torch.where(other, view.places, NONE).amax(dim=-1)
        return view.positions[:, None] - last_other

    def _least(self, in_group: Tensor, view: View) -> Tensor:
        """The bin that the next location must be beyond: (n, k)."""
        corner = self._bins[view.at((view.length - 2).clamp(min=0))]
        return torch.where(in_group >= 2, corner.clamp(max=self._last_bin - 1), NONE)
