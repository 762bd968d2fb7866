"""A load whose answers have many lengths (lengths.py): most are short, a few are very long.

The lengths are those that transformers' `generate` gives, so every server can be held to them.
"""

from dataclasses import dataclass
from pathlib import Path

from deployments.florence.sequence import Tokens
from loadtest.bench.answer_lengths import SHORT, brightness, lengths
from loadtest.bench.reference import Reference
from loadtest.scenes import photograph


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
