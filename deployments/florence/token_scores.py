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

NEAR_BINS = 10  # that a bin's mass reaches to either side; docs/scores.md has the comparison
WINDOW = 2 * NEAR_BINS + 1  # ids about a token's own whose log-probabilities are kept
NO_BIN = -1_000_000


@dataclass(frozen=True)
class TokenScores:
    """Of each token after the start token.

    `logprobs` are log-probabilities. `masses` are probabilities: a location's is that of all bins
    within `NEAR_BINS` of its own, any other token's is its own.
    """

    logprobs: tuple[float, ...]
    masses: tuple[float, ...]

    def __getitem__(self, part: slice) -> Self:
        """The scores of some tokens."""
        return type(self)(self.logprobs[part], self.masses[part])


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
        bin_, own = self._bin(near), self._bin(ids)
        counts = (np.abs(bin_ - own) <= NEAR_BINS) & (own != NO_BIN) | (near == ids)
        masses = (np.exp(windows.astype(np.float64)) * counts).sum(axis=1)
        logprobs = windows[:, NEAR_BINS]
        return TokenScores(tuple(logprobs.tolist()), tuple(np.minimum(masses, 1.0).tolist()))

    def _bin(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bin of each id; the table's last place stands for all ids beyond it."""
        bins: NDArray[np.int64] = self._bins[ids.clip(0, len(self._bins) - 1)]
        return bins
