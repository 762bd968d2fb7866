"""How sure the model was of each token that it wrote.

A token's log-probability is the model's own: the logarithm of the softmax of its logits, before
n-grams are ruled out and before the first and the last token are forced. That is what transformers'
`compute_transition_scores(sequences, logits, beam_indices, normalize_logits=True)` gives for what
`generate(output_logits=True)` returns, greedy or with beams.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

NEAR_BINS = 10  # to either side of a location: those whose probabilities are looked at
FAR_BINS = 50  # how far all others are taken to be
WINDOW = 2 * NEAR_BINS + 1  # ids about a token's own whose log-probabilities are kept
NO_BIN = -1_000_000


@dataclass(frozen=True)
class TokenScores:
    """Of each token after the start token.

    `logprobs` are log-probabilities. `errors` are how many bins a location is off, as the model
    itself expects it; any other token's mean nothing.
    """

    logprobs: tuple[float, ...]
    errors: tuple[float, ...]

    def __getitem__(self, part: slice) -> Self:
        """The scores of some tokens."""
        return type(self)(self.logprobs[part], self.errors[part])


class TokenScorer:
    """Makes scores of log-probabilities.

    Args:
        bins: location tokens: id → bin.
    """

    def __init__(self, bins: Mapping[int, int]) -> None:
        self._bins = np.full(max(bins, default=0) + 2 * WINDOW, NO_BIN)
        for id_, bin_ in bins.items():
            self._bins[id_] = bin_

    def __call__(self, tokens: Sequence[int], windows: NDArray[np.float32]) -> TokenScores:
        """The scores of tokens with the log-probabilities of the `WINDOW` ids about each's own."""
        ids = np.asarray(tokens, np.int64)[:, None]  # also of no tokens
        near = ids + np.arange(-NEAR_BINS, NEAR_BINS + 1)
        distances = np.abs(self._bin(near) - self._bin(ids))
        is_near = (distances <= NEAR_BINS) & (self._bin(ids) != NO_BIN)
        masses = np.exp(windows.astype(np.float64)) * is_near
        rest = np.maximum(1.0 - masses.sum(axis=1), 0.0)
        errors = (masses * np.minimum(distances, NEAR_BINS)).sum(axis=1) + rest * FAR_BINS
        return TokenScores(tuple(windows[:, NEAR_BINS].tolist()), tuple(errors.tolist()))

    def _bin(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bin of each id; the table's last place stands for all ids beyond it."""
        bins: NDArray[np.int64] = self._bins[ids.clip(0, len(self._bins) - 1)]
        return bins
