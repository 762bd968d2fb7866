"""A load whose answers have many lengths: most are short, a few are very long.

60 of 100 answers have about 20 tokens; the others are lognormal, 120 in the middle, 400 at most.
The lengths are those that transformers' `generate` gives, so every server can be held to them.
"""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from deployments.florence.run import Tokens
from loadtest.clockwork import brightness
from loadtest.reference import Reference
from loadtest.scenes import photograph

SHORT = 20
SHARE_OF_SHORT = 0.6
LONG = NormalDist(math.log(120), 0.7)  # of the logarithm
LIMITS = (40, 400)


@dataclass(frozen=True)
class Sample:
    """A JPEG, the token ids of the answer to it, and whether that was meant to be short."""

    jpeg: bytes
    answer: Tokens
    is_short: bool = False

    @property
    def length(self) -> int:
        """Tokens that are generated, the end included; the start token is given."""
        return len(self.answer) - 1


def mixture(folder: Path, num: int = 64) -> list[Sample]:
    """`num` images for the mixed checkpoint in `folder`, in an order that mixes their lengths."""
    wanted = lengths(num)
    jpegs = [photograph(seed, brightness=brightness(length)) for seed, length in enumerate(wanted)]
    answers = Reference(folder).answers(jpegs)
    is_short = [length == SHORT for length in wanted]
    return [Sample(*sample) for sample in zip(jpegs, answers, is_short, strict=True)]


def lengths(num: int) -> list[int]:
    """The lengths to ask for: the short ones, and even quantiles of the long ones, shuffled."""
    num_short = round(SHARE_OF_SHORT * num)
    shares = [(i + 0.5) / (num - num_short) for i in range(num - num_short)]
    long = [round(math.exp(LONG.inv_cdf(share))) for share in shares]
    chosen = [SHORT] * num_short + [min(max(length, LIMITS[0]), LIMITS[1]) for length in long]
    random.Random(0).shuffle(chosen)
    return chosen
