"""How long answers are: one length, a spread, a task's, or a mix of these.

40                                   every answer has 40 tokens
60:0.8                               lognormal: 60 in the middle, 0.8 the spread of its logarithm
region-proposal                      what is assumed of a task (TASKS)
region-proposal=0.6,caption=0.4      a mix, by weights
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deployments.errors import SetupError

LONGEST = 1024
# Assumptions, not measurements: a box takes four location tokens, a caption a sentence.
TASKS = {
    "caption": (12.0, 0.3),
    "object-detection": (40.0, 0.8),
    "region-proposal": (60.0, 0.8),
    "dense-region-caption": (120.0, 0.9),
}
SPREAD = re.compile(r"(\d+)(?::(\d*\.?\d+))?")


@dataclass(frozen=True)
class Lengths:
    """Tokens of an answer: the middle and the spread of the logarithm."""

    median: float
    spread: float = 0.0
    weight: float = 1.0

    def draw(self, number: int, random: np.random.Generator) -> list[int]:
        """So many lengths."""
        drawn = random.lognormal(np.log(self.median), self.spread, number)
        return [int(length) for length in np.clip(np.rint(drawn), 1, LONGEST)]


def mix_in(text: str) -> tuple[Lengths, ...]:
    """The lengths that a text speaks of.

    Raises:
        SetupError: it cannot be read.
    """
    return tuple(lengths_in(part.strip()) for part in text.split(","))


def lengths_in(text: str) -> Lengths:
    """One part of a mix.

    Raises:
        SetupError: it cannot be read.
    """
    name, equals, share = text.partition("=")
    spread = SPREAD.fullmatch(name)
    if name in TASKS:
        median, width = TASKS[name]
    elif spread and 0 < int(spread[1]) <= LONGEST:
        median, width = float(spread[1]), float(spread[2] or 0)
    else:
        raise SetupError(
            f"--tokens {text}: write a number up to {LONGEST}, MEDIAN:SPREAD or one of "
            f"{', '.join(TASKS)}, with =WEIGHT in a mix"
        )
    return Lengths(median, width, weight_in(text, share) if equals else 1.0)


def weight_in(text: str, share: str) -> float:
    """A part's weight.

    Raises:
        SetupError: it is no positive number.
    """
    try:
        weight = float(share)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise SetupError(f"--tokens {text}: a weight is a positive number")
    return weight


def draw(mix: Sequence[Lengths], number: int, random: np.random.Generator) -> list[int]:
    """So many lengths of a mix."""
    weights = np.array([part.weight for part in mix])
    chosen = random.choice(len(mix), number, p=weights / weights.sum())
    drawn = [iter(part.draw(int((chosen == i).sum()), random)) for i, part in enumerate(mix)]
    return [next(drawn[i]) for i in chosen]
