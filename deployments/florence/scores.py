"""How sure the model was of an item, from 0 to 1, made of the scores of its tokens.

The choice is by evidence: docs/scores.md compares it with others.
"""

from collections.abc import Iterable, Sequence
from math import exp, log
from statistics import fmean

from deployments.florence.token_scores import TokenScores

LEAST = 1e-12  # a probability below it says no more


def of_item(
    scores: TokenScores, label: Iterable[int], locations: Sequence[int], bins: Sequence[int]
) -> float:
    """The score of a box, a quad or a polygon, by the indices of its tokens.

    The geometric mean of its label's probabilities, times what the mean error of its locations
    leaves of it: an item of many tokens is not less for it.

    Args:
        bins: those of the `locations`, x and y in turn.
    """
    label_score = mean([exp(scores.logprobs[index]) for index in label])
    return rounded(label_score * (1.0 - fmean(errors(scores, locations, bins))))


def errors(scores: TokenScores, locations: Sequence[int], bins: Sequence[int]) -> list[float]:
    """How far each location is off, as a part of the item's width or height, at most all of it."""
    sides = [max(1, max(each) - min(each)) for each in (bins[::2], bins[1::2])]
    found = [scores.errors[index] / sides[n % 2] for n, index in enumerate(locations)]
    return [min(1.0, each) for each in found]  # in this order NaN is all


def of_text(scores: TokenScores) -> float:
    """The score of an answer in words: the geometric mean of its tokens' probabilities.

    Of an empty answer, `scores` has its last token's, with which the model chose to say nothing.
    """
    return rounded(mean([exp(logprob) for logprob in scores.logprobs]))


def mean(probabilities: list[float]) -> float:
    """The geometric mean; 1 of none. What is no number is no probability."""
    logs = [log(max(LEAST, each)) for each in probabilities]  # in this order NaN is the least
    return exp(sum(logs) / len(logs)) if logs else 1.0


def rounded(score: float) -> float:
    return round(min(max(score, 0.0), 1.0), 4)
