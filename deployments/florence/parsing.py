"""From token ids to boxes, quads, polygons and text.

Florence-2 writes a place as location tokens, x and y in turn, each a bin of the image's side: two
points are a box, four the corners of a line of text, and any number a polygon, whose parts stand
between `<sep>`s and whose instances may stand between `<poly>` and `</poly>`. A label comes before
its places. A bin stands for its middle: pixel = (bin + 0.5) · side / number of bins.

What is found is what transformers' own post-processing finds (Florence2PostProcessor), with these
differences:

- Coordinates are floats, which it truncates to whole pixels.
- A label is the text since the last special token, in any script. It strips all letters outside
  ASCII, and what it has cut a special token to may stay in the label.
- Boxes and quads without width or height, polygons of less than three points or with a coordinate
  too many, and boxes and quads without a label where there should be one, are dropped.
- Free text has no special tokens.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

from deployments.florence import scores
from deployments.florence.schemas import (
    BoundingBox,
    BoundingBoxes,
    OCRBoundingBox,
    OCRBoundingBoxSingle,
    Point,
    Polygon,
    PolygonOutput,
)
from deployments.florence.token_scores import TokenScores
from deployments.florence.vocabulary import Vocabulary

NUM_BINS = 1000
CLOSING = ".,;:!?)]}%"  # no space comes before these
UNFINISHED = "\ufffd"  # stands for a letter whose bytes have not all been written

# Over the tokens' kinds (Vocabulary.kinds): the first group is a label, the second its places.
BOXES, LABELLED_BOXES = re.compile("()(l{4,})"), re.compile("(t+)(l{4,})")
LABELLED_QUADS = re.compile("(t+)(l{8})")
POLYGONS, LABELLED_POLYGONS = re.compile("()([lspq]{4,})"), re.compile("(t+)([lspq]{4,})")
INSTANCE = re.compile("p([^q]*)q")
PART, ENDED_PART = re.compile("(l+)(?:s|$)"), re.compile("(l+)s")

# The `banned_grounding_tokens` of the published checkpoints' processors.
NO_PHRASES = frozenset({
    "it", "I", "me", "mine", "you", "your", "yours", "he", "him", "his", "she", "her", "hers",
    "they", "them", "their", "theirs", "one", "oneself", "we", "us", "our", "ours", "its",
    "myself", "yourself", "himself", "herself", "itself", "ourselves", "yourselves", "themselves",
    "this", "that", "these", "those", "who", "whom", "whose", "which", "what", "all", "another",
    "any", "anybody", "anyone", "anything", "each", "everybody", "everyone", "everything", "few",
    "many", "nobody", "none", "several", "some", "somebody", "someone", "something", "each other",
    "one another", "the image", "image", "images", "the", "a", "an", "a group", "other objects",
    "lots", "a set",
})  # fmt: skip


@dataclass(frozen=True)
class Found:
    """One item of an answer: the indices of its label's tokens, and of its locations'."""

    label: Sequence[int]
    locations: Sequence[int]


@dataclass(frozen=True)
class ModelAnswer:
    """Token ids without their frame, their vocabulary, and the (width, height) of the image.

    `scores` are those of the `tokens`, where they are wanted; of no tokens, those of the end.
    A truncated answer would have gone on: what stands at its end may be half of something.
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
            scores = scores[start : start + len(tokens)] if tokens else scores[-1:]
        return cls(tokens, vocabulary, size, scores, truncated)

    @cached_property
    def kinds(self) -> str:
        """A letter for each token, see `Vocabulary.kinds`."""
        return self.vocabulary.kinds(self.tokens)

    def label(self, found: Found) -> str:
        return self.vocabulary.decode(self.tokens[index] for index in found.label)

    def score(self, found: Found) -> dict[str, float]:
        """Its score as a field of a shape, where scores are wanted."""
        if self.scores is None:
            return {}
        bins = self.bins(found)
        return {"score": scores.of_item(self.scores, found.label, found.locations, bins)}

    def bins(self, found: Found) -> list[int]:
        return [self.vocabulary.bins[self.tokens[index]] for index in found.locations]

    def points(self, found: Found) -> list[Point]:
        """Its locations in pixels; one that is left over is no point."""
        bins = self.bins(found)
        width, height = self.size
        pairs = zip(bins[::2], bins[1::2], strict=False)
        return [Point(x=pixel(x, width), y=pixel(y, height)) for x, y in pairs]


def unlabelled_boxes(answer: ModelAnswer, _input: Any = None) -> BoundingBoxes:
    """Every complete group of four location tokens, with an empty label."""
    return boxes(answer, fours(answer, BOXES))


def labelled_boxes(answer: ModelAnswer, _input: Any = None) -> BoundingBoxes:
    """Every complete group of four location tokens, with the text that stands before its run."""
    return boxes(answer, labelled(answer, fours(answer, LABELLED_BOXES)))


def phrase_boxes(answer: ModelAnswer, _input: Any = None) -> BoundingBoxes:
    """The same without what is no phrase, such as "it" and "the image"."""
    found = labelled(answer, fours(answer, LABELLED_BOXES))
    return boxes(answer, (each for each in found if answer.label(each) not in NO_PHRASES))


def boxes_or_polygons(answer: ModelAnswer, _input: Any = None) -> BoundingBoxes:
    """The labelled boxes, and a box around each instance that is written as polygons."""
    found = chain.from_iterable(
        around_instances(answer, match) if "p" in match[2] else groups(match, 4)
        for match in LABELLED_POLYGONS.finditer(answer.kinds)
    )
    return boxes(answer, labelled(answer, found))


def quads(answer: ModelAnswer, _input: Any = None) -> OCRBoundingBox:
    """Each text that eight location tokens follow."""
    found = chain.from_iterable(groups(match, 8) for match in LABELLED_QUADS.finditer(answer.kinds))
    made = [quad(answer, each) for each in labelled(answer, found)]
    return OCRBoundingBox.of(made)


def polygons(answer: ModelAnswer, _input: Any = None) -> PolygonOutput:
    """Every part of every instance, with an empty label."""
    matches = POLYGONS.finditer(answer.kinds)
    found = [part for match in matches for parts in instances(answer, match) for part in parts]
    made = [polygon(answer, part) for part in found]
    return PolygonOutput.of(made)


def text(answer: ModelAnswer, _input: Any = None) -> str:
    """The answer as text, without special tokens; what one has parted stays apart.

    A letter that a truncated answer has half of is left out.
    """
    written = ""
    for match in re.finditer("t+", answer.kinds):
        piece = answer.vocabulary.text(answer.tokens[slice(*match.span())])
        is_apart = written[-1:].isspace() or piece[:1].isspace() or piece[:1] in CLOSING
        written += piece if is_apart or not written else f" {piece}"
    return (written.rstrip(UNFINISHED) if answer.truncated else written).strip()


def fours(answer: ModelAnswer, pattern: re.Pattern[str]) -> Iterator[Found]:
    """The boxes of each run of locations."""
    return chain.from_iterable(groups(match, 4) for match in pattern.finditer(answer.kinds))


def groups(match: re.Match[str], size: int) -> Iterator[Found]:
    """The locations that a match begins with, `size` at a time; a rest is an item cut short."""
    places = match[2]
    num = len(places) - len(places.lstrip("l"))
    for start in range(match.start(2), match.start(2) + num - size + 1, size):
        yield Found(range(*match.span(1)), range(start, start + size))


def instances(answer: ModelAnswer, match: re.Match[str]) -> Iterator[list[Found]]:
    """The parts of each instance in a match of polygons.

    Marks of both kinds in the wrong order close nothing: there is no instance.
    """
    is_marked = "p" in match[2] and "q" in match[2]
    closed = [each.span(1) for each in INSTANCE.finditer(answer.kinds, *match.span(2))]
    part = ENDED_PART if is_open(answer, match) else PART
    for span in closed if is_marked else [match.span(2)]:
        found = part.finditer(answer.kinds, *span)
        yield [Found(range(*match.span(1)), range(*each.span(1))) for each in found]


def is_open(answer: ModelAnswer, match: re.Match[str]) -> bool:
    """Whether the only instance in a match of polygons may have more than was written of it."""
    may_go_on = answer.truncated and match.end(2) == len(answer.kinds)
    return may_go_on and not INSTANCE.search(answer.kinds, *match.span(2))


def around_instances(answer: ModelAnswer, match: re.Match[str]) -> Iterator[Found]:
    """One item for each instance that is whole, with the locations of all its parts."""
    whole_ones = () if is_open(answer, match) else instances(answer, match)
    for parts in whole_ones:
        whole = [part.locations[: len(part.locations) // 2 * 2] for part in parts]
        if any(whole):
            yield Found(range(*match.span(1)), list(chain.from_iterable(whole)))


def labelled(answer: ModelAnswer, found: Iterable[Found]) -> Iterator[Found]:
    """What has a label."""
    return (each for each in found if answer.label(each))


def boxes(answer: ModelAnswer, found: Iterable[Found]) -> BoundingBoxes:
    return BoundingBoxes.of([box(answer, each) for each in found])


def box(answer: ModelAnswer, found: Found) -> BoundingBox | None:
    """The upright rectangle around all points; None if it has no width or no height."""
    x, y, w, h = around(answer.points(found))
    made = BoundingBox(x=x, y=y, w=w, h=h, label=answer.label(found), **answer.score(found))
    return made if w and h else None


def quad(answer: ModelAnswer, found: Found) -> OCRBoundingBoxSingle | None:
    """Four corners, and the upright rectangle around them; None if it has no width or no height."""
    points, label = answer.points(found), answer.label(found)
    x, y, w, h = around(points)
    score = answer.score(found)
    made = OCRBoundingBoxSingle(x=x, y=y, w=w, h=h, label=label, points=points, **score)
    return made if w and h else None


def polygon(answer: ModelAnswer, found: Found) -> Polygon | None:
    """None for less than three points, or a coordinate too many."""
    num = len(found.locations)
    if num < 6 or num % 2:
        return None
    return Polygon(points=answer.points(found), label=answer.label(found), **answer.score(found))


def around(points: list[Point]) -> tuple[float, float, float, float]:
    """(x, y, width, height) of the upright rectangle around all points."""
    left, right = min(each.x for each in points), max(each.x for each in points)
    top, bottom = min(each.y for each in points), max(each.y for each in points)
    return left, top, round(right - left, 3), round(bottom - top, 3)


def pixel(bin_: int, side: int) -> float:
    """The middle of a bin in pixels, to a thousandth, not beyond the image."""
    return round(min((bin_ + 0.5) * side / NUM_BINS, float(side)), 3)
