"""How well the boxes of an answer fit those of a scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


def box_of(corners: tuple[float, float, float, float]) -> ApiBox:
    """Corners (x1, y1, x2, y2) as a box in the API's words."""
    x1, y1, x2, y2 = corners
    return {"x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "label": ""}


def match_boxes(truth: Sequence[ApiBox], found: Sequence[ApiBox]) -> list[Match]:
    """Each true box with a found box of its own, the best overlaps first."""
    order = sorted(
        ((iou(t, f), i, j) for i, t in enumerate(truth) for j, f in enumerate(found)), reverse=True
    )
    partner: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for overlap, i, j in order:
        if overlap > 0 and i not in partner and j not in taken:
            partner[i] = j, overlap
            taken.add(j)
    return [
        Match(box, found[partner[i][0]], partner[i][1]) if i in partner else Match(box, None, 0.0)
        for i, box in enumerate(truth)
    ]


def iou(one: ApiBox, other: ApiBox) -> float:
    """Intersection over union of two boxes."""
    width = min(one["x"] + one["w"], other["x"] + other["w"]) - max(one["x"], other["x"])
    height = min(one["y"] + one["h"], other["y"] + other["h"]) - max(one["y"], other["y"])
    common = max(0.0, width) * max(0.0, height)
    return float(common / (one["w"] * one["h"] + other["w"] * other["h"] - common))
