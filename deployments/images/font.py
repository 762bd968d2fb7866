"""The font of a label: Pillow's own knows English letters alone, those of the machine know more."""

import unicodedata
from contextlib import suppress
from functools import cache, lru_cache

from PIL import ImageFont

# Of Linux, of the image in k8s/docker, of macOS; those that are not there are passed over.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
)
NO_LETTER = "\uffff"  # no font has it, so it looks as everything that a font lacks
ANY_SIZE = 16  # which letters a font has does not depend on its size

Font = ImageFont.FreeTypeFont


def lettering(text: str, size: int) -> tuple[str, Font]:
    """`text` as one line, and the font that knows most of it, `size` pixels high.

    An accent that the font lacks is left out; any other letter that it lacks is an empty box.
    """
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    line = "".join(filter(str.isprintable, line))
    font = max(fonts(), key=lambda font: sum(has(font, letter) for letter in line))
    known = (letter if has(font, letter) else plain(letter) for letter in line)
    return "".join(known), sized(font, size)


@cache
def fonts() -> tuple[Font, ...]:
    found = [ImageFont.load_default(ANY_SIZE)]
    for name in SYSTEM_FONTS:
        with suppress(OSError):
            found.append(ImageFont.truetype(name, ANY_SIZE))
    return tuple(font for font in found if isinstance(font, Font))


@lru_cache(1024)
def has(font: Font, letter: str) -> bool:
    return bytes(font.getmask(letter)) != bytes(font.getmask(NO_LETTER))


def plain(letter: str) -> str:
    """The letter without its accents."""
    return unicodedata.normalize("NFKD", letter)[0]


@lru_cache(16)
def sized(font: Font, size: int) -> Font:
    return font.font_variant(size=size)
