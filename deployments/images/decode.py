"""Turn a client's bytes into an RGB picture, and a picture into the model's pixels.

The bytes are hostile: their first bytes give the format, Pillow may use the reader of that
one format only, and the size in the header is checked before a pixel is decoded.
Pillow releases the GIL while it decodes and resizes, so these functions belong in a thread.
It does not know where the bytes came from.
"""

import re
import struct
import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from deployments.errors import (
    ImageLoadError,
    ImageTooLarge,
    ImageTooSmall,
    UnsupportedImageFormat,
)
from deployments.settings import PreprocessSettings

SUPPORTED = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# First bytes of a file, most specific first; a dot stands for any byte.
SIGNATURES: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("PNG", rb"\x89PNG\r\n\x1a\n"),
        ("JPEG", rb"\xff\xd8\xff"),
        ("WEBP", rb"RIFF....WEBP"),
        ("GIF", rb"GIF8[79]a"),
        ("TIFF", rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"),
        # The brands of an ISO media file: the major one, then the compatible ones.
        ("AVIF", rb"....ftyp(?:....){0,12}?avi[fs]"),
        ("HEIC", rb"....ftyp(?:....){0,12}?(?:hei[cxms]|hev[cxms]|mif1|msf1)"),
        ("MP4", rb"....ftyp"),
        (
            "HTML",
            rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?i:!doctype html|html|head|body|script)",
        ),
        ("SVG", rb"(?:\xef\xbb\xbf)?\s*(?:<svg|<[?!].*?<svg)"),
        ("XML", rb"(?:\xef\xbb\xbf)?\s*<\?xml"),
        ("PDF", rb"%PDF-"),
        ("EPS", rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("PSD", rb"8BPS"),
        ("WMF", rb"\xd7\xcd\xc6\x9a"),
        ("EMF", rb"\x01\0\0\0.{36} EMF"),
        ("ICO", rb"\0\0[\x01\x02]\0[^\0]"),
        ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("JPEG XL", rb"\0\0\0\x0cJXL |\xff\x0a"),
        ("DDS", rb"DDS "),
        ("QOI", rb"qoif"),
        ("PNM", rb"P[1-7]\s"),
        ("OpenEXR", rb"\x76\x2f\x31\x01"),
        ("HDF5", rb"\x89HDF\r\n\x1a\n"),
        ("ICNS", rb"icns"),
        ("XCF", rb"gimp xcf"),
        ("WebM", rb"\x1a\x45\xdf\xa3"),
        ("ZIP", rb"PK\x03\x04"),
        ("gzip", rb"\x1f\x8b"),
        ("BMP", rb"BM"),
    )
)
SNIFFED_BYTES = 4096

# What Pillow's readers are known to raise on damaged files.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
)
# A progressive JPEG has about ten scans; thousands of empty ones keep a thread busy for minutes.
MAX_JPEG_SCANS = 100
JPEG_SCAN = b"\xff\xda"
TIFF_TILE_WIDTH, TIFF_TILE_LENGTH = 322, 323

TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Our own limit replaces Pillow's, whose warning is process-wide state and whose error hides the
# size. Pillow's remarks on damaged metadata would fill the log with a client's bytes.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode(source: bytes, settings: PreprocessSettings) -> Image.Image:
    """The first frame of `source`, upright by its EXIF orientation, as RGB in (width, height).

    Transparency is laid over white, the paper that most such pictures were drawn for.
    16-bit grey is scaled to 8 bits; wider integers and floats are stretched to their extremes.

    Raises:
        UnsupportedImageFormat: a known format that is not read; ctx holds `supported_formats`.
        ImageLoadError: no image, or a damaged one.
        ImageTooLarge: ctx holds `max_pixels`, `width` and `height`.
        ImageTooSmall: ctx holds `min_width` and `min_height`.
    """
    kind = sniff(source)
    try:
        image = open_image(source, kind)
        check_size(image, settings)
        image.load()
        return to_rgb(upright(image))
    except DAMAGE:
        raise ImageLoadError(
            f"Failed to load the image: the {kind} file is damaged or incomplete."
        ) from None


def to_pixels(image: Image.Image, size: tuple[int, int], resample: int) -> NDArray[np.uint8]:
    """`image` resized to `size`, which is (width, height), as C-contiguous (height, width, 3).

    `resample` is one of Pillow's filters; Florence-2's processor uses bicubic, 3.
    """
    # A copy, because torch wants arrays that it may write to.
    return np.array(image.convert("RGB").resize(size, resample), dtype=np.uint8, order="C")


def sniff(source: bytes) -> str:
    """The supported format whose signature `source` has.

    Raises:
        UnsupportedImageFormat, ImageLoadError: as `decode`.
    """
    start = source[:SNIFFED_BYTES]
    kind = next((name for name, pattern in SIGNATURES if pattern.match(start)), None)
    if kind is None:
        raise ImageLoadError("Failed to load the image: the file is not an image.")
    if kind not in SUPPORTED:
        raise UnsupportedImageFormat(
            f"The file is {kind}, which is not a supported image format.",
            supported_formats=[name.lower() for name in SUPPORTED],
        )
    return kind


def open_image(source: bytes, kind: str) -> Image.Image:
    """Read the header only; no pixel is decoded."""
    if kind == "JPEG" and source.count(JPEG_SCAN) > MAX_JPEG_SCANS:
        raise ValueError("too many scans")
    return Image.open(BytesIO(source), formats=(kind,))


def check_size(image: Image.Image, settings: PreprocessSettings) -> None:
    """Refuse sizes outside of the settings, before anything is allocated."""
    width, height = image.size
    if max(width * height, tile_pixels(image)) > settings.max_pixels:
        raise ImageTooLarge(
            f"The image has {width}x{height} pixels, more than {settings.max_pixels} in all.",
            max_pixels=settings.max_pixels,
            width=width,
            height=height,
        )
    if min(width, height) < settings.min_side:
        raise ImageTooSmall(
            f"The image has {width}x{height} pixels; each side needs at least {settings.min_side}.",
            min_width=settings.min_side,
            min_height=settings.min_side,
        )


def tile_pixels(image: Image.Image) -> int:
    """Pixels of one TIFF tile, which may be far larger than the image, and is decoded whole."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(TIFF_TILE_WIDTH, 0)) * int(tags.get(TIFF_TILE_LENGTH, 0))


def upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says; damaged metadata turns nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:
        return image
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return stretch(np.array(image, np.float32)).convert("RGB")
    if image.has_transparency_data:
        return over_white(image.convert("RGBA"))
    return image.convert("RGB")


def stretch(values: NDArray[np.float32]) -> Image.Image:
    """Grey levels from the lowest to the highest finite of `values`, of shape (height, width)."""
    finite = np.isfinite(values)
    low = values.min(where=finite, initial=np.inf)
    high = values.max(where=finite, initial=-np.inf)
    # Hostile extremes overflow to infinity here; they end as some grey, not as an error.
    with np.errstate(all="ignore"):
        np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
        values -= low
        values *= 255 / max(high - low, 1e-30)
        return Image.fromarray(values.clip(0, 255, out=values).astype(np.uint8))


def over_white(image: Image.Image) -> Image.Image:
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper
