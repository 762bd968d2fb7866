"""The tasks that the demo checkpoint learns: one row of `TASKS` each.

A row says what Florence-2 would answer about a scene, and how answers are scored. No tensors here.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deployments.demo.scenes import Box, Scene, SceneObject
from deployments.demo.scoring import assign

BINS = 1000  # positions per image side: <loc_0> to <loc_999>

SENTENCES = {
    "<OCR>": "What is the text in the image?",
    "<OCR_WITH_REGION>": "What is the text in the image, with regions?",
    "<CAPTION>": "What does the image describe?",
    "<DETAILED_CAPTION>": "Describe in detail what is shown in the image.",
    "<MORE_DETAILED_CAPTION>": "Describe with a paragraph what is shown in the image.",
    "<OD>": "Locate the objects with category name in the image.",
    "<DENSE_REGION_CAPTION>": "Locate the objects in the image, with their descriptions.",
    "<REGION_PROPOSAL>": "Locate the region proposals in the image.",
    "<CAPTION_TO_PHRASE_GROUNDING>": "Locate the phrases in the caption: {input}",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "Locate {input} in the image with mask",
    "<REGION_TO_SEGMENTATION>": "What is the polygon mask of region {input}",
    "<OPEN_VOCABULARY_DETECTION>": "Locate {input} in the image.",
    "<REGION_TO_CATEGORY>": "What is the region {input}?",
    "<REGION_TO_DESCRIPTION>": "What does the region {input} describe?",
    "<REGION_TO_OCR>": "What text is in the region {input}?",
}

Figures = dict[str, float]


@dataclass(frozen=True)
class TrainingTask:
    """One task: what is asked, the right answer, its share of the training mix, its scorer."""

    marker: str
    answer: Callable[[Scene], str]
    share: float
    score: Callable[[Sequence[Scene], Sequence[str]], Figures]
    required: Figures = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The prompt that Florence-2's processor puts in place of the marker."""
        return SENTENCES[self.marker]


# Answers ------------------------------------------------------------------------------------------


def propose(scene: Scene) -> str:
    """The boxes alone."""
    return _located(scene, lambda o: "")


def detect(scene: Scene) -> str:
    """Each shape and its box."""
    return _located(scene, lambda o: o.shape)


def describe_regions(scene: Scene) -> str:
    """Each colour and shape and its box."""
    return _located(scene, lambda o: f"{o.colour} {o.shape}")


def caption(scene: Scene) -> str:
    """One phrase that names every object from left to right."""
    *first, last = [f"{_article(o.colour)} {o.colour} {o.shape}" for o in scene.objects]
    return f"{', '.join(first)} and {last}" if first else last


def _located(scene: Scene, label: Callable[[SceneObject], str]) -> str:
    return "".join(label(o) + _locations(o.box, scene.image.size) for o in scene.objects)


def _locations(box: Box, size: tuple[int, int]) -> str:
    sides = (size[0], size[1], size[0], size[1])
    bins = (min(BINS - 1, int(v * BINS / side)) for v, side in zip(box, sides, strict=True))
    return "".join(f"<loc_{b}>" for b in bins)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


# Scores -------------------------------------------------------------------------------------------


def score_boxes(
    label: Callable[[SceneObject], str] | None = None,
) -> Callable[[Sequence[Scene], Sequence[str]], Figures]:
    """A scorer of located answers; a label is right when it equals `label(object)`."""

    def score(scenes: Sequence[Scene], answers: Sequence[str]) -> Figures:
        ious, num_found, num_predicted, num_labelled, num_counted = [], 0, 0, 0, 0
        for scene, answer in zip(scenes, answers, strict=True):
            predicted = parse_boxes(answer, scene.image.size)
            num_predicted += len(predicted)
            num_counted += len(predicted) == len(scene.objects)
            for truth, match, overlap in _matched(scene.objects, predicted):
                ious.append(overlap)
                num_found += overlap >= 0.5
                num_labelled += overlap >= 0.5 and label is not None and match == label(truth)
        figures = {
            "recall": num_found / len(ious),
            "precision": num_found / max(1, num_predicted),
            "recall_75": sum(i >= 0.75 for i in ious) / len(ious),
            "mean_iou": sum(ious) / len(ious),
            "right_count": num_counted / len(scenes),
        }
        if label is not None:
            figures["right_label"] = num_labelled / max(1, num_found)
        return figures

    return score


def score_text(scenes: Sequence[Scene], answers: Sequence[str]) -> Figures:
    """The part of captions that are right to the letter."""
    right = sum(caption(s) == a.strip() for s, a in zip(scenes, answers, strict=True))
    return {"exact": right / len(scenes)}


def parse_boxes(answer: str, size: tuple[int, int]) -> list[tuple[str, Box]]:
    """Labels and boxes in pixels of an image of `size` (width, height)."""
    found = []
    for label, *bins in re.findall(r"([^<]*)" + r"<loc_(\d+)>" * 4, answer):
        x1, y1, x2, y2 = ((int(b) + 0.5) / BINS for b in bins)
        found.append((label.strip(), (x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1])))
    return found


def _matched(
    truths: Sequence[SceneObject], predicted: Sequence[tuple[str, Box]]
) -> list[tuple[SceneObject, str, float]]:
    """Every true object with the label and IoU of its own prediction ("" and 0 if it has none)."""
    pairs = assign([truth.box for truth in truths], [box for _, box in predicted])
    return [
        (truth, "" if index is None else predicted[index][0], overlap)
        for truth, (index, overlap) in zip(truths, pairs, strict=True)
    ]


# The table ----------------------------------------------------------------------------------------

BOXES_REQUIRED = {"recall": 0.98, "precision": 0.98, "mean_iou": 0.93}
LABELS_REQUIRED = {**BOXES_REQUIRED, "right_label": 0.95}

TASKS = (
    TrainingTask("<REGION_PROPOSAL>", propose, 0.20, score_boxes(), BOXES_REQUIRED),
    TrainingTask("<OD>", detect, 0.25, score_boxes(lambda o: o.shape), LABELS_REQUIRED),
    TrainingTask(
        "<DENSE_REGION_CAPTION>",
        describe_regions,
        0.30,
        score_boxes(lambda o: f"{o.colour} {o.shape}"),
        LABELS_REQUIRED,
    ),
    TrainingTask("<CAPTION>", caption, 0.25, score_text, {"exact": 0.90}),
)
