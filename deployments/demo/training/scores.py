"""How well answers do against the right ones; both are text with location tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

from deployments.demo.scenes import Box, Point
from deployments.demo.scoring import assign

BINS = 1000  # positions per image side: <loc_0> to <loc_999>
MASK_SIDE = 250  # pixels of the masks that are compared

Figures = dict[str, float]
Polygon = list[Point]


@dataclass(frozen=True)
class Scored:
    """A right answer and a given one; `is_turned` where a word of the scene is not upright."""

    right: str
    given: str
    is_turned: bool = False


def boxes(pairs: Sequence[Scored]) -> Figures:
    """Recall, precision and overlap of boxes that are matched one to one."""
    overlaps: list[float] = []
    num_given, num_counted = 0, 0
    for pair in pairs:
        truths, found = parse_boxes(pair.right), parse_boxes(pair.given)
        num_given += len(found)
        num_counted += len(found) == len(truths)
        overlaps += [overlap for _, overlap in assign(_only(truths), _only(found))]
    num_found = sum(overlap >= 0.5 for overlap in overlaps)
    return {
        "recall": num_found / max(1, len(overlaps)),
        "precision": num_found / num_given if num_given else 1.0,
        "recall_75": sum(overlap >= 0.75 for overlap in overlaps) / max(1, len(overlaps)),
        "mean_iou": sum(overlaps) / max(1, len(overlaps)),
        "right_count": num_counted / len(pairs),
    }


def labelled_boxes(pairs: Sequence[Scored]) -> Figures:
    """The same, with the share of found boxes that have the right label."""
    num_found, num_labelled = 0, 0
    for pair in pairs:
        truths, found = parse_boxes(pair.right), parse_boxes(pair.given)
        for (label, _), (index, overlap) in zip(
            truths, assign(_only(truths), _only(found)), strict=True
        ):
            if index is not None and overlap >= 0.5:
                num_found += 1
                num_labelled += found[index][0] == label
    return {**boxes(pairs), "right_label": num_labelled / max(1, num_found)}


def phrases(pairs: Sequence[Scored]) -> Figures:
    """The same, with the share of questions about nothing that is there that got no box."""
    return {**labelled_boxes(pairs), **_absent(pairs)}


def masks(pairs: Sequence[Scored]) -> Figures:
    """The mean overlap of what the polygons cover, where there is something to cover."""
    present = [pair for pair in pairs if pair.right]
    overlaps = [
        mask_iou(parse_polygons(pair.right), parse_polygons(pair.given)) for pair in present
    ]
    return {"mask_iou": sum(overlaps) / max(1, len(overlaps)), **_absent(pairs)}


def quads(pairs: Sequence[Scored]) -> Figures:
    """The share of words with the right text around the right place (overlap of 0.5)."""
    figures = {}
    for name, chosen in _by_turn(pairs):
        num_words, num_right = 0, 0
        for pair in chosen:
            found = parse_quads(pair.given)
            for text, quad in parse_quads(pair.right):
                num_words += 1
                num_right += any(
                    text == other and mask_iou([quad], [place]) >= 0.5 for other, place in found
                )
        figures[f"right_{name}"] = num_right / max(1, num_words)
    return {**figures, **_absent(pairs)}


def texts(pairs: Sequence[Scored]) -> Figures:
    """The share of answers that are right to the letter."""
    return {"exact": _exact(pairs)}


def readings(pairs: Sequence[Scored]) -> Figures:
    """The same where there is something to read, by whether words are turned."""
    figures = {f"exact_{name}": _exact(chosen) for name, chosen in _by_turn(pairs)}
    return {**figures, **_absent(pairs)}


def parse_boxes(answer: str) -> list[tuple[str, Box]]:
    """Labels and boxes, as parts of the image's sides; a label counts for all boxes behind it."""
    found, label = [], ""
    for text, *bins in re.findall(r"([^<]*)" + r"<loc_(\d+)>" * 4, answer):
        label = text.strip() or label
        x1, y1, x2, y2 = ((int(b) + 0.5) / BINS for b in bins)
        found.append((label, (x1, y1, x2, y2)))
    return found


def parse_polygons(answer: str) -> list[Polygon]:
    """The polygons between separators, as parts of the image's sides."""
    parts = (_parse_points(part) for part in answer.split("<sep>"))
    return [part for part in parts if len(part) > 2]


def parse_quads(answer: str) -> list[tuple[str, Polygon]]:
    """Texts and their four corners, as parts of the image's sides."""
    found = re.findall(r"([^<]+)((?:<loc_\d+>){8})", answer)
    return [(text.strip(), _parse_points(points)) for text, points in found]


def mask_iou(truth: Sequence[Polygon], found: Sequence[Polygon]) -> float:
    """Intersection over union of the areas that two sets of polygons cover."""
    first, second = _mask(truth), _mask(found)
    union = ImageChops.lighter(first, second).histogram()[255]
    return ImageChops.darker(first, second).histogram()[255] / union if union else 0.0


def _mask(polygons: Sequence[Polygon]) -> Image.Image:
    mask = Image.new("L", (MASK_SIDE, MASK_SIDE))
    draw = ImageDraw.Draw(mask)
    for polygon in polygons:
        draw.polygon([(x * MASK_SIDE, y * MASK_SIDE) for x, y in polygon], fill=255)
    return mask


def _parse_points(answer: str) -> Polygon:
    bins = [(int(b) + 0.5) / BINS for b in re.findall(r"<loc_(\d+)>", answer)]
    return list(zip(bins[::2], bins[1::2], strict=False))


def _exact(pairs: Sequence[Scored]) -> float:
    return sum(pair.right == pair.given.strip() for pair in pairs) / max(1, len(pairs))


def _absent(pairs: Sequence[Scored]) -> Figures:
    """Of the questions about what is not there, the share that were answered by nothing."""
    absent = [pair for pair in pairs if not pair.right]
    if not absent:
        return {}
    return {"absent": sum(not pair.given.strip() for pair in absent) / len(absent)}


def _by_turn(pairs: Sequence[Scored]) -> list[tuple[str, list[Scored]]]:
    """The pairs that have an answer, by whether their words are upright."""
    there = [pair for pair in pairs if pair.right]
    return [
        ("upright", [pair for pair in there if not pair.is_turned]),
        ("turned", [pair for pair in there if pair.is_turned]),
    ]


def _only(found: Sequence[tuple[str, Box]]) -> list[Box]:
    return [box for _, box in found]
