"""The tasks that the demo checkpoint learns: one row of `TASKS` each.

A row says what is asked about a scene and what Florence-2 would answer; `scores.py` says how well
answers do. No tensors here.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from deployments.demo.scenes import COLOURS, SHAPES, Box, Point, Scene
from deployments.demo.training import scores
from deployments.demo.training.scores import BINS, Figures, Scored

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
WORD = "word"  # the category of a drawn word
BACKGROUND = "background"
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven")
ALIENS = ("giraffe", "dog", "cat", "car", "person", "tree", "house", "table", "bird", "star")
REGION_JITTER = 0.015  # of the side: people do not draw exact regions
SHARE_ABSENT = 0.35


@dataclass(frozen=True)
class Thing:
    """A shape or a word of a scene, as the tasks name it; `outline` is in pixels."""

    category: str
    colour: str
    box: Box
    outline: tuple[Point, ...]

    @property
    def description(self) -> str:
        return f"{self.colour} {self.category}"


@dataclass(frozen=True)
class Example:
    """What is asked: the text or region that goes with the marker, and the right answer."""

    words: str
    answer: str


@dataclass(frozen=True)
class TrainingTask:
    """One task: how to ask it about a scene, how often, and how answers are scored.

    `share` is its weight in the training mix at first, `late_share` from the moment on when what
    is learned last is asked more often.
    """

    marker: str
    ask: Callable[[random.Random, Scene], Example]
    share: float
    late_share: float
    score: Callable[[Sequence[Scored]], Figures]
    required: Figures = field(default_factory=dict)

    def prompt(self, question: Example) -> str:
        """The prompt that Florence-2's processor puts in place of the marker."""
        return SENTENCES[self.marker].replace("{input}", question.words)


# What there is ------------------------------------------------------------------------------------


def things(scene: Scene) -> list[Thing]:
    """All shapes and words, from left to right."""
    shapes = [Thing(o.shape, o.colour, o.box, o.outline) for o in scene.objects]
    words = [Thing(WORD, w.colour, w.box, w.quad) for w in scene.words]
    return sorted([*shapes, *words], key=lambda thing: thing.box)


# Boxes --------------------------------------------------------------------------------------------


def located(label: Callable[[Thing], str]) -> Callable[[random.Random, Scene], Example]:
    """Asks for everything there is, each with its label before its box."""

    def ask(_rng: random.Random, scene: Scene) -> Example:
        return Example("", "".join(label(t) + _box(t.box, scene) for t in things(scene)))

    return ask


def ground(rng: random.Random, scene: Scene) -> Example:
    """A caption of one to three phrases, some of which are not there."""
    phrases = _phrases(rng, scene, rng.randint(1, 3))
    return Example(_joined(rng, phrases), _answered(phrases, scene))


def detect(rng: random.Random, scene: Scene) -> Example:
    """One or two phrases for open-vocabulary detection."""
    phrases = _phrases(rng, scene, rng.choice((1, 1, 2)))
    return Example(" <and> ".join(phrases), _answered(phrases, scene))


def _phrases(rng: random.Random, scene: Scene, count: int) -> dict[str, list[Thing]]:
    """Phrases and what they mean; no thing is meant twice, and some phrases mean nothing."""
    found: dict[str, list[Thing]] = {}
    free = things(scene)
    for _ in range(count):
        is_absent = not free or rng.random() < SHARE_ABSENT
        name, meant = _absent(rng, scene) if is_absent else _present(rng, scene)
        known = [thing for group in found.values() for thing in group]
        if not any(thing in known for thing in meant) and not any(
            _stem(name) == _stem(phrase) for phrase in found
        ):
            found[_worded(rng, name, len(meant))] = meant
    return found


def _present(rng: random.Random, scene: Scene) -> tuple[str, list[Thing]]:
    """A category or description of something that is there, and all that it fits."""
    all_things = things(scene)
    chosen = rng.choice(all_things)
    if rng.random() < 0.35:
        return chosen.category, [t for t in all_things if t.category == chosen.category]
    return chosen.description, [t for t in all_things if t.description == chosen.description]


def _absent(rng: random.Random, scene: Scene) -> tuple[str, list[Thing]]:
    all_things = things(scene)
    if rng.random() < 0.25:
        letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8)))
        return rng.choice((*ALIENS, letters)), []
    categories = (*SHAPES, WORD)
    names = [*categories, *(f"{c} {s}" for c in COLOURS for s in categories)]
    there = {name for t in all_things for name in (t.category, t.description)}
    return rng.choice([name for name in names if name not in there]), []


def _stem(phrase: str) -> str:
    return phrase.removeprefix("a ").removeprefix("an ").removeprefix("the ").removesuffix("s")


def _worded(rng: random.Random, name: str, count: int) -> str:
    """`name` as people write it: with an article, in the plural, or bare."""
    if count > 1:
        return rng.choice((f"{name}s", f"{name}s", name))
    return rng.choice((name, name, f"{_article(name)} {name}", f"the {name}", f"{name}s"))


def _joined(rng: random.Random, phrases: Iterable[str]) -> str:
    """Phrases as a caption, in one of the ways that people separate them."""
    *first, last = phrases
    style = rng.choice(("words", "commas", "stops", "tokens"))
    if style == "words":
        return f"{', '.join(first)} and {last}" if first else last
    if style == "stops":
        return "".join(f"{phrase}. " for phrase in (*first, last)).strip()
    return {"commas": ", ", "tokens": " <and> "}[style].join((*first, last))


def _answered(phrases: dict[str, list[Thing]], scene: Scene) -> str:
    return "".join(
        phrase + "".join(_box(t.box, scene) for t in meant)
        for phrase, meant in phrases.items()
        if meant
    )


# Polygons -----------------------------------------------------------------------------------------


def segment(rng: random.Random, scene: Scene) -> Example:
    """A phrase, answered by the outline of all that it fits."""
    ((phrase, meant),) = _phrases(rng, scene, 1).items()
    return Example(phrase, "<sep>".join(_points(t.outline, scene) for t in meant))


def segment_region(rng: random.Random, scene: Scene) -> Example:
    """A region, answered by the outline of what is in it."""
    region, thing = _region(rng, scene)
    return Example(region, _points(thing.outline, scene) if thing else "")


# Regions to words ---------------------------------------------------------------------------------


def categorise(rng: random.Random, scene: Scene) -> Example:
    region, thing = _region(rng, scene)
    return Example(region, thing.category if thing else BACKGROUND)


def describe(rng: random.Random, scene: Scene) -> Example:
    region, thing = _region(rng, scene)
    return Example(region, thing.description if thing else BACKGROUND)


def _region(rng: random.Random, scene: Scene) -> tuple[str, Thing | None]:
    """A region about as a person draws it, and what it holds."""
    all_things = things(scene)
    if not all_things or rng.random() < 0.1:
        empty = _empty_box(rng, scene, all_things)
        if empty or not all_things:
            return _box(empty or (0, 0, *scene.image.size), scene), None
    thing = rng.choice(all_things)
    width, height = scene.image.size
    jittered = [
        min(side, max(0.0, value + rng.uniform(-REGION_JITTER, REGION_JITTER) * side))
        for value, side in zip(thing.box, (width, height, width, height), strict=True)
    ]
    return _box((jittered[0], jittered[1], jittered[2], jittered[3]), scene), thing


def _empty_box(rng: random.Random, scene: Scene, all_things: Sequence[Thing]) -> Box | None:
    width, height = scene.image.size
    for _ in range(20):
        w, h = rng.uniform(0.12, 0.4) * width, rng.uniform(0.12, 0.4) * height
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        if not any(
            x < t.box[2] and t.box[0] < x + w and y < t.box[3] and t.box[1] < y + h
            for t in all_things
        ):
            return x, y, x + w, y + h
    return None


# Text ---------------------------------------------------------------------------------------------


def read(_rng: random.Random, scene: Scene) -> Example:
    """All words, from top to bottom."""
    return Example("", " ".join(word.text for word in scene.words))


def read_regions(_rng: random.Random, scene: Scene) -> Example:
    """Each word and its four corners."""
    return Example("", "".join(w.text + _points(w.quad, scene) for w in scene.words))


def caption(scene: Scene) -> str:
    """What there is, counted."""
    names = [thing.category for thing in things(scene)]
    return _listed([_counted(names.count(name), name) for name in dict.fromkeys(names)]) or (
        "an empty picture"
    )


def detailed_caption(scene: Scene) -> str:
    """What there is, from left to right, with colours; what is alike is counted."""
    names = [thing.description for thing in things(scene)]
    alike = [
        name if names.count(name) == 1 else _counted(names.count(name), name)
        for name in dict.fromkeys(names)
    ]
    return f"From left to right: {_listed(alike)}." if names else "A picture of nothing."


def more_detailed_caption(scene: Scene) -> str:
    """A paragraph: how much there is, then what."""
    shapes, words = len(scene.objects), len(scene.words)
    first = (
        f"The picture shows {COUNTS[shapes]} shape{'s' * (shapes != 1)} "
        f"and {COUNTS[words]} word{'s' * (words != 1)}."
    )
    return f"{first} {detailed_caption(scene)}" if shapes + words else first


def told(caption: Callable[[Scene], str]) -> Callable[[random.Random, Scene], Example]:
    return lambda _rng, scene: Example("", caption(scene))


def _counted(count: int, name: str) -> str:
    return f"{_article(name)} {name}" if count == 1 else f"{COUNTS[count]} {name}s"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


# Locations ----------------------------------------------------------------------------------------


def _box(box: Box, scene: Scene) -> str:
    return _points((box[:2], box[2:]), scene)


def _points(points: Iterable[Point], scene: Scene) -> str:
    """Location tokens x, y of each point."""
    sides = scene.image.size
    return "".join(
        f"<loc_{max(0, min(BINS - 1, int(value * BINS / side)))}>"
        for point in points
        for value, side in zip(point, sides, strict=True)
    )


# The table ----------------------------------------------------------------------------------------

BOXES = {"recall": 0.97, "precision": 0.97}
LABELS = {**BOXES, "right_label": 0.96}
PHRASES = {"recall": 0.95, "precision": 0.95, "absent": 0.90}

TASKS = (
    TrainingTask("<REGION_PROPOSAL>", located(lambda t: ""), 0.05, 0.02, scores.boxes, BOXES),
    TrainingTask("<OD>", located(lambda t: t.category), 0.08, 0.02, scores.labelled_boxes, LABELS),
    TrainingTask(
        "<DENSE_REGION_CAPTION>",
        located(lambda t: t.description),
        0.10,
        0.03,
        scores.labelled_boxes,
        LABELS,
    ),
    TrainingTask("<CAPTION_TO_PHRASE_GROUNDING>", ground, 0.11, 0.13, scores.phrases, PHRASES),
    TrainingTask("<OPEN_VOCABULARY_DETECTION>", detect, 0.08, 0.12, scores.phrases, PHRASES),
    TrainingTask(
        "<REFERRING_EXPRESSION_SEGMENTATION>", segment, 0.10, 0.22, scores.masks, {"mask_iou": 0.85}
    ),
    TrainingTask(
        "<REGION_TO_SEGMENTATION>", segment_region, 0.06, 0.05, scores.masks, {"mask_iou": 0.85}
    ),
    TrainingTask(
        "<OCR_WITH_REGION>", read_regions, 0.14, 0.16, scores.quads, {"right_upright": 0.88}
    ),
    TrainingTask("<OCR>", read, 0.12, 0.11, scores.readings, {"exact_upright": 0.90}),
    TrainingTask("<CAPTION>", told(caption), 0.04, 0.08, scores.texts, {"exact": 0.93}),
    TrainingTask(
        "<DETAILED_CAPTION>", told(detailed_caption), 0.06, 0.09, scores.texts, {"exact": 0.93}
    ),
    TrainingTask(
        "<MORE_DETAILED_CAPTION>",
        told(more_detailed_caption),
        0.05,
        0.09,
        scores.texts,
        {"exact": 0.93},
    ),
    TrainingTask("<REGION_TO_CATEGORY>", categorise, 0.04, 0.02, scores.texts, {"exact": 0.95}),
    TrainingTask("<REGION_TO_DESCRIPTION>", describe, 0.05, 0.02, scores.texts, {"exact": 0.95}),
)
