"""How fast a model is: seconds for a step by its rows, for a pass of the encoder by its images."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

KNOWN = 512  # numbers whose seconds are looked up


@dataclass(frozen=True)
class Curve:
    """Seconds by a number of things: straight between the points, and on behind the last.

    Below the first point it is the first point's.
    """

    points: tuple[tuple[int, float], ...]

    @classmethod
    def straight(cls, base_s: float, each_s: float) -> "Curve":
        """`base_s`, and `each_s` for each."""
        return cls(((1, base_s + each_s), (2, base_s + 2 * each_s)))

    @classmethod
    def measured_ms(cls, measured: Mapping[int, float]) -> "Curve":
        """Milliseconds as they were measured; more things never take less time."""
        longest, points = 0.0, []
        for number, milliseconds in sorted(measured.items()):
            longest = max(longest, milliseconds)
            points.append((number, longest / 1000))
        return cls(tuple(points))

    def __call__(self, number: int) -> float:
        """Seconds for so many."""
        return self._table[number] if number < KNOWN else self._at(number)

    @cached_property
    def _table(self) -> list[float]:
        return [self._at(number) for number in range(KNOWN)]

    def _at(self, number: int) -> float:
        if number <= self.points[0][0] or len(self.points) == 1:
            return self.points[0][1]
        pairs = list(pairwise(self.points))
        place = bisect_left([right for _, (right, _) in pairs], number)
        (left, low), (right, high) = pairs[min(place, len(pairs) - 1)]
        return low + (high - low) * (number - left) / (right - left)


@dataclass(frozen=True)
class Speed:
    """Seconds of a decoder step by its rows, and of an encoder's pass by its images."""

    step: Curve
    prefill: Curve

    def images_per_s(self, slots: int, tokens: float, micro_batch: int) -> float:
        """Images a second of a replica whose slots are always full, with answers of one length.

        Each image has its share of an encoder's pass and of the steps that it is part of.
        """
        return 1 / (self.prefill(micro_batch) / micro_batch + tokens * self.step(slots) / slots)
