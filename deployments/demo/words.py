"""Words as pictures: capital letters in two fonts, upright or turned."""

import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]

FONTS = ("sans", "serif")  # Pillow's own Aileron, and the capital letters of DejaVu Serif
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VOWELS = "AEIOU"
LONGEST_WORD = 8
SUPERSAMPLING = 3


@dataclass(frozen=True)
class TurnedWord:
    """The coverage of a word, 0 to 255, with its corners and the middle of each letter on it.

    `quad` begins at the top left of the text and goes round it clockwise; `turn` is in degrees.
    """

    mask: Image.Image
    quad: tuple[Point, ...]
    letters: tuple[Point, ...]
    turn: float


def invent_word(rng: random.Random) -> str:
    """One to eight capital letters; half of the words can be pronounced."""
    length = rng.randint(1, LONGEST_WORD)
    if rng.random() < 0.5:
        return "".join(rng.choices(LETTERS, k=length))
    start = rng.randint(0, 1)
    consonants = "".join(c for c in LETTERS if c not in VOWELS)
    return "".join(rng.choice((consonants, VOWELS)[(start + i) % 2]) for i in range(length))


def draw_word(text: str, font: str, size: int, turn: float) -> TurnedWord:
    """A word in a font of `size` pixels, turned by `turn` degrees against the clock."""
    ink, middles = _ink(text, _font(font, size * SUPERSAMPLING))
    width, height = ink.size
    turned = ink.rotate(turn, Image.Resampling.BICUBIC, expand=True) if turn else ink
    box = turned.getbbox() or (0, 0, *turned.size)
    mask = turned.crop(box)
    padding = [-side % SUPERSAMPLING for side in mask.size]
    padded = Image.new("L", (mask.width + padding[0], mask.height + padding[1]))
    padded.paste(mask)
    angle = math.radians(turn)
    cos, sin = math.cos(angle), math.sin(angle)

    def placed(x: float, y: float) -> Point:
        dx, dy = x - width / 2, y - height / 2
        px = turned.width / 2 + dx * cos + dy * sin - box[0]
        py = turned.height / 2 - dx * sin + dy * cos - box[1]
        return px / SUPERSAMPLING, py / SUPERSAMPLING

    corners = ((0, 0), (width, 0), (width, height), (0, height))
    return TurnedWord(
        padded.reduce(SUPERSAMPLING),
        tuple(placed(x, y) for x, y in corners),
        tuple(placed(x, height / 2) for x in middles),
        turn,
    )


def _ink(text: str, font: ImageFont.FreeTypeFont) -> tuple[Image.Image, list[float]]:
    """The ink of `text`, cropped, and where along it each letter has its middle."""
    left, top, right, bottom = (round(v) for v in font.getbbox(text))
    ink = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(ink).text((-left, -top), text, font=font, fill=255)
    ends = [font.getlength(text[: i + 1]) for i in range(len(text))]
    return ink, [(a + b) / 2 - left for a, b in zip([0.0, *ends], ends, strict=False)]


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name == "serif":
        return ImageFont.truetype(Path(__file__).with_name("serif.ttf"), size)
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
