"""Procedural scenes: coloured shapes and words on a light background, and pictures of nothing.

Needs only Pillow, so that a demo or a test can make one without torch.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from deployments.demo.words import FONTS, TurnedWord, draw_word, invent_word

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle")
COLOURS: dict[str, Colour] = {
    "red": (221, 51, 51),
    "orange": (246, 134, 32),
    "yellow": (244, 208, 38),
    "green": (52, 158, 74),
    "blue": (47, 103, 222),
    "purple": (130, 62, 180),
    "pink": (242, 134, 184),
    "black": (46, 46, 52),
}
NATURAL = (
    (96, 84, 68),
    (178, 160, 130),
    (82, 110, 60),
    (130, 140, 150),
    (224, 220, 208),
    (60, 66, 74),
)
COLOUR_JITTER = 16
SIDES = (0.18, 0.44)  # side of an object, as a part of sqrt(width * height)
ASPECTS = (0.6, 1.7)  # width / height of a random canvas
SUPERSAMPLING = 4
FAINTEST = 16  # alpha below this is invisible: it is not drawn and not in the box
MOST_SHAPES = 5
SMALL_SIDES = (0.12, 0.30)  # of shapes where there are many things
MOST_WORDS = 2
WORD_SIZES = (0.10, 0.13, 0.17, 0.22)  # of a word's font, as a part of sqrt(width * height)
WORD_COLOURS = ("red", "green", "blue", "purple", "black")  # legible on a light background
LARGEST_TURN = 30.0  # degrees
SHARE_TURNED = 0.5
SEPARATION = 0.03  # of the side, between what is listed from left to right, or down
CIRCLE_POINTS = 12


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape; `box` is (x1, y1, x2, y2) in pixels, the exact extent of what was drawn."""

    shape: str
    colour: str
    box: Box

    @property
    def outline(self) -> tuple[Point, ...]:
        """The corners in pixels, clockwise from the top (left); a circle has twelve."""
        x1, y1, x2, y2 = self.box
        if self.shape == "square":
            return (x1, y1), (x2, y1), (x2, y2), (x1, y2)
        if self.shape == "triangle":
            return ((x1 + x2) / 2, y1), (x2, y2), (x1, y2)
        turns = (2 * math.pi * n / CIRCLE_POINTS for n in range(CIRCLE_POINTS))
        return tuple(
            (
                (x1 + x2) / 2 + (x2 - x1) / 2 * math.sin(turn),
                (y1 + y2) / 2 - (y2 - y1) / 2 * math.cos(turn),
            )
            for turn in turns
        )


@dataclass(frozen=True)
class SceneWord:
    """One drawn word.

    `box` is the extent of its ink, `quad` its corners from the top left of the text, clockwise,
    `letters` the middle of each letter; all in pixels.
    """

    text: str
    colour: str
    box: Box
    quad: tuple[Point, ...]
    letters: tuple[Point, ...]
    turn: float = 0.0  # degrees, against the clock


@dataclass(frozen=True)
class Scene:
    """An RGB image, its objects from left to right, and its words from top to bottom."""

    image: Image.Image
    objects: tuple[SceneObject, ...]
    words: tuple[SceneWord, ...] = ()


def draw_scene(rng: random.Random, size: tuple[int, int], max_objects: int = 3) -> Scene:
    """Draw 1 to `max_objects` objects that do not overlap on a canvas of `size` (width, height)."""
    image = draw_background(rng, size)
    kinds = rng.sample([(s, c) for s in SHAPES for c in COLOURS], rng.randint(1, max_objects))
    objects: list[SceneObject] = []
    for shape, colour in kinds:
        extent = _find_extent(rng, size, [o.box for o in objects])
        if extent is not None:
            box = _paint(image, shape, _jittered(rng, COLOURS[colour], COLOUR_JITTER), extent)
            objects.append(SceneObject(shape, colour, box))
    return Scene(image, tuple(sorted(objects, key=lambda o: o.box)))


def draw_mixed_scene(
    rng: random.Random, size: tuple[int, int], max_words: int = MOST_WORDS
) -> Scene:
    """Draw what the demo checkpoint knows: up to five shapes, words, both, or nothing at all."""
    kind = rng.choices(("shapes", "words", "both", "nothing"), weights=(40, 40, 14, 6))[0]
    if kind == "nothing":
        return Scene(rng.choice((draw_background, draw_texture))(rng, size), ())
    image = draw_background(rng, size)
    num_shapes = {"shapes": MOST_SHAPES, "words": 0, "both": 2}[kind]
    num_words = {"shapes": 0, "words": max_words, "both": 1}[kind]
    words = _add_words(rng, image, rng.randint(min(1, num_words), num_words))
    num_shapes = rng.randint(min(1, num_shapes), num_shapes)
    objects = _add_shapes(rng, image, _kinds(rng, num_shapes), [word.box for word in words])
    return Scene(image, objects, words)


def draw_texture(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A crop of something natural: stone, sand, grass, bark, cloud or cloth, with nothing on it."""
    stretch = rng.choice((1, 1, 1, 4, 8)), rng.choice((1, 1, 3))
    texture = Image.new("L", size, 128)
    cells = rng.randint(2, 5)
    for octave in range(5):
        width, height = cells * stretch[0], cells * stretch[1]
        noise = Image.frombytes("L", (width, height), rng.randbytes(width * height))
        texture = Image.blend(texture, noise.resize(size, Image.Resampling.BICUBIC), 0.62**octave)
        cells *= 2
    dark, light = (_jittered(rng, rng.choice(NATURAL), 30) for _ in range(2))
    return ImageOps.colorize(ImageOps.autocontrast(texture, cutoff=1), dark, light)


def draw_background(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A light canvas of `size` (width, height) with a few slightly different rectangles."""
    width, height = size
    light = rng.randint(215, 245)
    base = _jittered(rng, (light, light, light), 10)
    image = Image.new("RGB", size, base)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 5)):
        x, y = rng.uniform(-0.2, 0.9) * width, rng.uniform(-0.2, 0.9) * height
        far = (x + rng.uniform(0.15, 0.6) * width, y + rng.uniform(0.15, 0.6) * height)
        draw.rectangle((x, y, *far), fill=_jittered(rng, base, 14))
    return image


def random_size(rng: random.Random, side: int) -> tuple[int, int]:
    """(width, height) in pixels of a canvas with the area of side x side and a random aspect."""
    aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
    return round(side * math.sqrt(aspect)), round(side / math.sqrt(aspect))


def _kinds(rng: random.Random, num_shapes: int) -> list[tuple[str, str]]:
    """Shapes and colours: each colour once, but that a third of the scenes have a twin."""
    kinds = [(rng.choice(SHAPES), c) for c in rng.sample(list(COLOURS), num_shapes)]
    if num_shapes > 1 and rng.random() < 1 / 3:
        kinds[1] = kinds[0]
    return kinds


def _add_shapes(
    rng: random.Random, image: Image.Image, kinds: Sequence[tuple[str, str]], taken: Sequence[Box]
) -> tuple[SceneObject, ...]:
    """Paint shapes clear of the `taken` boxes and of each other, as many as there is room for."""
    sides = SIDES if len(kinds) + 2 * len(taken) <= 3 else SMALL_SIDES
    objects: list[SceneObject] = []
    for shape, colour in kinds:
        boxes = [*taken, *(o.box for o in objects)]
        extent = _find_extent(rng, image.size, boxes, sides, SEPARATION * image.width)
        if extent is not None:
            box = _paint(image, shape, _jittered(rng, COLOURS[colour], COLOUR_JITTER), extent)
            objects.append(SceneObject(shape, colour, box))
    return tuple(sorted(objects, key=lambda o: o.box))


def _add_words(rng: random.Random, image: Image.Image, num_words: int) -> tuple[SceneWord, ...]:
    """Write words clear of each other, none of three letters of another; some are turned."""
    words: list[SceneWord] = []
    for _ in range(num_words):
        for _attempt in range(50):
            text = invent_word(rng)
            drawn = _random_word(rng, text, image.size)
            place = _place_word(rng, drawn, image.size, words)
            if place is not None and not _repeats(" ".join([*(w.text for w in words), text])):
                words.append(_write(rng, image, text, drawn, place))
                break
    return tuple(sorted(words, key=lambda w: w.box[1] + w.box[3]))


def _random_word(rng: random.Random, text: str, size: tuple[int, int]) -> TurnedWord:
    scale = math.sqrt(size[0] * size[1])
    turn = rng.uniform(-LARGEST_TURN, LARGEST_TURN) if rng.random() < SHARE_TURNED else 0.0
    return draw_word(text, rng.choice(FONTS), round(rng.choice(WORD_SIZES) * scale), turn)


def _place_word(
    rng: random.Random, drawn: TurnedWord, size: tuple[int, int], words: Sequence[SceneWord]
) -> tuple[int, int] | None:
    """The upper left corner in whole pixels; None where it does not fit."""
    width, height = drawn.mask.size
    if width > size[0] - 4 or height > size[1] - 4:
        return None
    for _ in range(20):
        x, y = rng.randint(2, size[0] - width - 2), rng.randint(2, size[1] - height - 2)
        gap = 0.02 * size[0]
        reach = (x - gap, y - gap, x + width + gap, y + height + gap)
        middles = ((w.box[1] + w.box[3]) / 2 for w in words)
        apart = all(abs(y + height / 2 - m) > 2 * SEPARATION * size[1] for m in middles)
        apart &= all(abs(x - w.box[0]) > SEPARATION * size[0] for w in words)
        if apart and not any(_overlap(reach, word.box) for word in words):
            return x, y
    return None


def _write(
    rng: random.Random, image: Image.Image, text: str, drawn: TurnedWord, place: tuple[int, int]
) -> SceneWord:
    colour = rng.choice(WORD_COLOURS)
    image.paste(_jittered(rng, COLOURS[colour], COLOUR_JITTER), place, drawn.mask)
    left, top, right, bottom = drawn.mask.getbbox() or (0, 0, *drawn.mask.size)
    x, y = place
    return SceneWord(
        text,
        colour,
        (float(x + left), float(y + top), float(x + right), float(y + bottom)),
        tuple((px + x, py + y) for px, py in drawn.quad),
        tuple((px + x, py + y) for px, py in drawn.letters),
        drawn.turn,
    )


def _repeats(text: str) -> bool:
    """Whether three letters come twice, which the family's generation settings forbid."""
    threes = [text[i : i + 3] for i in range(len(text) - 2)]
    return len(set(threes)) < len(threes)


def _find_extent(
    rng: random.Random,
    size: tuple[int, int],
    taken: Sequence[Box],
    sides: tuple[float, float] = SIDES,
    separation: float = 0.0,
) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) in whole pixels, clear of the `taken` boxes; None if there is none.

    Left sides are `separation` pixels apart, so that the order from left to right is clear.
    """
    scale = math.sqrt(size[0] * size[1])
    gap = 0.03 * scale
    for attempt in range(200):
        largest = sides[1] - (sides[1] - sides[0]) * attempt / 200  # smaller with every attempt
        side = round(rng.uniform(sides[0], largest) * scale)
        x, y = rng.randint(1, size[0] - side - 1), rng.randint(1, size[1] - side - 1)
        reach = (x - gap, y - gap, x + side + gap, y + side + gap)
        if any(abs(x - box[0]) < separation for box in taken):
            continue
        if not any(_overlap(reach, box) for box in taken):
            return x, y, side, side
    return None


def _paint(image: Image.Image, shape: str, fill: Colour, extent: tuple[int, int, int, int]) -> Box:
    """Paint one smooth-edged shape into `extent` (x, y, width, height); return its exact box."""
    x, y, width, height = extent
    mask = _mask(shape, (width, height))
    image.paste(fill, (x, y), mask)
    left, top, right, bottom = mask.getbbox() or (0, 0, width, height)
    return (float(x + left), float(y + top), float(x + right), float(y + bottom))


def _mask(shape: str, size: tuple[int, int]) -> Image.Image:
    """The coverage (0 to 255) of a shape that fills `size` (width, height)."""
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    if shape == "circle":
        draw.ellipse((0, 0, width - 1, height - 1), fill=255)
    elif shape == "square":
        draw.rectangle((0, 0, width - 1, height - 1), fill=255)
    else:
        draw.polygon([(width / 2, 0), (width - 1, height - 1), (0, height - 1)], fill=255)
    return mask.reduce(SUPERSAMPLING).point([0] * FAINTEST + list(range(FAINTEST, 256)))


def _jittered(rng: random.Random, colour: Colour, amount: int) -> Colour:
    red, green, blue = (min(255, max(0, v + rng.randint(-amount, amount))) for v in colour)
    return red, green, blue


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
