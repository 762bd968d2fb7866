"""How long the answers of a mixed load are, and which images ask for that.

60 of 100 answers have about 20 tokens; the others are lognormal, 120 in the middle, 400 at most.
checkpoint.py makes a brighter image's answer longer.
"""

import math
import random
from statistics import NormalDist

LENGTHS = (8, 480)  # tokens of an answer, its end included
BRIGHTNESSES = (50.0, 220.0)  # mean of an image, of 255
SHORT = 20
SHARE_OF_SHORT = 0.6
LONG = NormalDist(math.log(120), 0.7)  # of the logarithm
LIMITS = (40, 400)


def brightness(length: int) -> float:
    """The mean of an image, of 255, whose answer has about `length` tokens."""
    (shortest, longest), (dark, bright) = LENGTHS, BRIGHTNESSES
    return dark + (bright - dark) * math.log(length / shortest) / math.log(longest / shortest)


def lengths(num: int) -> list[int]:
    """The lengths to ask for: the short ones, and even quantiles of the long ones, shuffled."""
    num_short = round(SHARE_OF_SHORT * num)
    chosen = [SHORT] * num_short + long_lengths(num - num_short)
    random.Random(0).shuffle(chosen)
    return chosen


def long_lengths(num: int) -> list[int]:
    """Even quantiles of the long ones, the shortest first."""
    long = [round(math.exp(LONG.inv_cdf((i + 0.5) / num))) for i in range(num)]
    return [min(max(length, LIMITS[0]), LIMITS[1]) for length in long]
