"""From token ids to boxes and text.

Florence-2 writes a box as four location tokens x1 y1 x2 y2, each a bin of the image's side,
and a labelled box as its label followed by the tokens of one or more boxes.
A bin stands for its middle: pixel = (bin + 0.5) · side / number of bins.
Boxes are floats; the library's own parser truncates them to whole pixels
and strips every letter outside ASCII from labels, this one keeps both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self

from deployments.florence.schemas import BoundingBox, BoundingBoxes
from deployments.florence.token_scores import TokenScores
from deployments.florence.vocabulary import Vocabulary

NUM_BINS = 1000


@dataclass(frozen=True)
class ModelAnswer:
    """Token ids without their frame, their vocabulary, and the (width, height) of the image.

    `scores` are those of the `tokens`, where they are wanted. A truncated answer would have gone
    on: what stands at its end may be half of something.
    """

    tokens: tuple[int, ...]
    vocabulary: Vocabulary
    size: tuple[int, int]
    scores: TokenScores | None = None
    truncated: bool = False

    @classmethod
    def of(
        cls,
        ids: Sequence[int],
        vocabulary: Vocabulary,
        size: tuple[int, int],
        scores: TokenScores | None = None,
        truncated: bool = False,
    ) -> Self:
        """The answer in what the model has written, `</s><s>` and `</s>` included.

        `scores` are those of all `ids` but the first.
        """
        tokens = vocabulary.trim(ids)
        if scores is not None:
            start = vocabulary.start(ids) - 1
            scores = scores[start : start + len(tokens)]
        return cls(tokens, vocabulary, size, scores, truncated)


def unlabelled_boxes(answer: ModelAnswer, _input: Any = None) -> BoundingBoxes:
    """Every complete group of four location tokens, with an empty label."""
    boxes = [box(bins, "", answer.size) for _, run in runs(answer) for bins in fours(run)]
    return BoundingBoxes(bboxes=boxes)


def labelled_boxes(answer: ModelAnswer, _input: Any = None) -> BoundingBoxes:
    """Every complete group of four location tokens, with the text that stands before its run."""
    boxes = [box(bins, label, answer.size) for label, run in runs(answer) for bins in fours(run)]
    return BoundingBoxes(bboxes=[found for found in boxes if found.label])


def text(answer: ModelAnswer, _input: Any = None) -> str:
    """The answer as text; location tokens are left out."""
    bins = answer.vocabulary.bins
    return answer.vocabulary.decode(id_ for id_ in answer.tokens if id_ not in bins)


def runs(answer: ModelAnswer) -> Iterator[tuple[str, list[int]]]:
    """Each unbroken run of location bins with the text before it."""
    bins = answer.vocabulary.bins
    label = ""
    for located, ids in groupby(answer.tokens, bins.__contains__):
        if located:
            yield label, [bins[id_] for id_ in ids]
        else:
            label = answer.vocabulary.decode(ids)


def fours(run: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """The complete groups of four in `run`; what is left over is a box cut short."""
    for i in range(0, len(run) - 3, 4):
        yield run[i], run[i + 1], run[i + 2], run[i + 3]


def box(bins: tuple[int, int, int, int], label: str, size: tuple[int, int]) -> BoundingBox:
    """The box of four bins in pixels of an image of `size` (width, height), inside the image."""
    width, height = size
    left, right = sorted(pixel(side, width) for side in (bins[0], bins[2]))
    top, bottom = sorted(pixel(side, height) for side in (bins[1], bins[3]))
    w, h = round(right - left, 3), round(bottom - top, 3)
    return BoundingBox(x=left, y=top, w=w, h=h, label=label)


def pixel(bin_: int, side: int) -> float:
    """The middle of a bin in pixels, to a thousandth, not beyond the image."""
    return round(min((bin_ + 0.5) * side / NUM_BINS, float(side)), 3)
