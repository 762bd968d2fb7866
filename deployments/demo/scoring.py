"""How well the boxes of an answer fit those of a scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.demo.scenes import Box

ApiBox = dict[str, Any]  # as in the API: x, y, w, h in pixels, and a label


@dataclass(frozen=True)
class Match:
    """A true box, the found box that overlaps it most, and their intersection over union."""

    truth: ApiBox
    found: ApiBox | None
    iou: float


@dataclass(frozen=True)
class SceneScore:
    """A match for each true box of a scene, and the found boxes that match none."""

    matches: Sequence[Match]
    strays: Sequence[ApiBox] = ()


def score_boxes(truth: Sequence[ApiBox], found: Sequence[ApiBox]) -> SceneScore:
    """The matches of all true boxes, and the strays."""
    matches = match_boxes(truth, found)
    used = [match.found for match in matches]
    return SceneScore(matches, [box for box in found if box not in used])


def box_of(corners: Box) -> ApiBox:
    """Corners (x1, y1, x2, y2) as a box in the API's words."""
    x1, y1, x2, y2 = corners
    return {"x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "label": ""}


def corners_of(box: ApiBox) -> Box:
    """A box of the API as corners (x1, y1, x2, y2)."""
    return box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]


def match_boxes(truth: Sequence[ApiBox], found: Sequence[ApiBox]) -> list[Match]:
    """Each true box with a found box of its own, the best overlaps first."""
    pairs = assign([corners_of(box) for box in truth], [corners_of(box) for box in found])
    return [
        Match(box, None if index is None else found[index], overlap)
        for box, (index, overlap) in zip(truth, pairs, strict=True)
    ]


def assign(truth: Sequence[Box], found: Sequence[Box]) -> list[tuple[int | None, float]]:
    """For each true box the index of its own found box, and their IoU; None and 0 without one.

    The pair with the largest overlap is made first.
    """
    order = sorted(
        ((iou(t, f), i, j) for i, t in enumerate(truth) for j, f in enumerate(found)), reverse=True
    )
    partner: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for overlap, i, j in order:
        if overlap > 0 and i not in partner and j not in taken:
            partner[i] = j, overlap
            taken.add(j)
    return [partner.get(i, (None, 0.0)) for i in range(len(truth))]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes of corners (x1, y1, x2, y2)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)
