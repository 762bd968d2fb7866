"""Procedural scenes: one to three coloured shapes on a light background.

Needs only Pillow, so that a demo or a test can make one without torch.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

Box = tuple[float, float, float, float]
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
COLOUR_JITTER = 16
SIDES = (0.18, 0.44)  # side of an object, as a part of sqrt(width * height)
ASPECTS = (0.6, 1.7)  # width / height of a random canvas
SUPERSAMPLING = 4
FAINTEST = 16  # alpha below this is invisible: it is not drawn and not in the box


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape; `box` is (x1, y1, x2, y2) in pixels, the exact extent of what was drawn."""

    shape: str
    colour: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """An RGB image and its objects from left to right; no two share both colour and shape."""

    image: Image.Image
    objects: tuple[SceneObject, ...]


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


def _find_extent(
    rng: random.Random, size: tuple[int, int], taken: Sequence[Box]
) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) in whole pixels, clear of the `taken` boxes; None if there is none."""
    scale = math.sqrt(size[0] * size[1])
    gap = 0.03 * scale
    for attempt in range(200):
        largest = SIDES[1] - (SIDES[1] - SIDES[0]) * attempt / 200  # smaller with every attempt
        side = round(rng.uniform(SIDES[0], largest) * scale)
        x, y = rng.randint(1, size[0] - side - 1), rng.randint(1, size[1] - side - 1)
        reach = (x - gap, y - gap, x + side + gap, y + side + gap)
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
