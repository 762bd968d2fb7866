"""Every format and mode becomes the right RGB picture, and hostile bytes a clear error, cheaply."""

import contextlib
import io
import struct
import subprocess
import sys
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from deployments.errors import (
    ImageLoadError,
    ImageTooLarge,
    ImageTooSmall,
    InputError,
    UnsupportedImageFormat,
)
from deployments.images.decode import SUPPORTED, decode, to_pixels
from deployments.settings import PreprocessSettings

SETTINGS = PreprocessSettings()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def scene() -> Image.Image:
    """48x32: red on the left, blue on the right, a green bar along the top."""
    image = Image.new("RGB", (48, 32), RED)
    draw = ImageDraw.Draw(image)
    draw.rectangle((24, 0, 47, 31), fill=BLUE)
    draw.rectangle((0, 0, 47, 7), fill=GREEN)
    return image


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(image: Image.Image, x: int, y: int) -> list[int]:
    """The red, green and blue of one pixel."""
    levels: list[int] = np.asarray(image)[y, x].tolist()
    return levels


def assert_scene(image: Image.Image, tolerance: int = 12) -> None:
    assert image.mode == "RGB"
    assert image.size == (48, 32)
    for point, colour in {(24, 3): GREEN, (8, 20): RED, (40, 20): BLUE}.items():
        assert np.abs(np.subtract(pixel(image, *point), colour)).max() <= tolerance


def png(width: int, height: int, *chunks: tuple[bytes, bytes], colour: int = 2) -> bytes:
    """A PNG whose header says this size, with these chunks and no more."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )


def tiff(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A little-endian TIFF of `data`, at offset 8, and one directory of these entries."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(entries)) + directory + bytes(4)


def gif(num_frames: int) -> bytes:
    """A GIF of `num_frames` frames of 4x4 pixels."""
    single = encode(Image.new("P", (4, 4)), "GIF")
    start = single.index(b"\x2c")
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00" + single[start:-1]
    return single[:start] + frame * num_frames + b"\x3b"


# ---- what must work


@pytest.mark.parametrize("kind", SUPPORTED)
def test_formats(kind: str) -> None:
    """Every supported format is read."""
    assert_scene(decode(encode(scene(), kind), SETTINGS), tolerance=90)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"progressive": True, "quality": 95, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("PNG", {"bits": 8}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
        ("TIFF", {"big_tiff": True}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_variants(kind: str, options: dict[str, Any]) -> None:
    """Progressive, lossless and compressed variants are read."""
    assert_scene(decode(encode(scene(), kind, **options), SETTINGS), tolerance=40)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")],
)
def test_colour_modes(mode: str, kind: str) -> None:
    """Every colour mode becomes RGB of the same colours."""
    assert_scene(decode(encode(scene().convert(mode), kind), SETTINGS))


def test_cmyk_jpeg() -> None:
    """A CMYK JPEG keeps its colours, which its file stores inverted."""
    source = encode(scene().convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert_scene(decode(source, SETTINGS))


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("L", "JPEG"), ("1", "PNG"), ("1", "TIFF")]
)
def test_grey_modes(mode: str, kind: str) -> None:
    """Grey and black-and-white become RGB with three equal channels."""
    image = Image.new(mode, (8, 8), 0)
    image.paste(255 if mode == "L" else 1, (4, 0, 8, 8))
    decoded = decode(encode(image, kind), SETTINGS)
    assert decoded.mode == "RGB"
    assert max(pixel(decoded, 1, 4)) <= 5
    assert min(pixel(decoded, 6, 4)) >= 250


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_is_scaled(kind: str) -> None:
    """16-bit grey levels are scaled to 8 bits, not clipped to white."""
    levels = np.array([[0, 256, 32768, 65535]] * 4, np.uint16)
    decoded = decode(encode(Image.fromarray(levels), kind), SETTINGS)
    assert [pixel(decoded, x, 0)[0] for x in range(4)] == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (np.array([[-1.0, 0.0, 1.0]] * 3, np.float32), [0, 127, 255]),
        (np.array([[np.nan, 0.0, np.inf]] * 3, np.float32), [0, 0, 0]),
        (np.array([[7.0, 7.0, 7.0]] * 3, np.float32), [0, 0, 0]),
        (np.array([[np.nan, np.nan, np.nan]] * 3, np.float32), [0, 0, 0]),
        (np.array([[0, 100_000, 200_000]] * 3, np.int32), [0, 127, 255]),
    ],
    ids=["float", "not-finite", "constant", "nothing-finite", "integer"],
)
def test_wide_levels_are_stretched(levels: np.ndarray, expected: list[int]) -> None:
    """32-bit grey levels, which have no agreed white, are stretched to their extremes."""
    decoded = decode(encode(Image.fromarray(levels), "TIFF"), SETTINGS)
    assert expected == [pixel(decoded, x, 0)[0] for x in range(3)]


def transparent(mode: str) -> bytes:
    """8x8, opaque black on the left and wholly transparent black on the right, as PNG."""
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (4, 0, 8, 8))
        return encode(image, "PNG", transparency=b"\xff\x00")
    if mode == "RGB":
        image = Image.new("RGB", (8, 8), (0, 0, 0))
        image.paste((0, 0, 1), (4, 0, 8, 8))
        return encode(image, "PNG", transparency=(0, 0, 1))
    if mode == "L":
        image = Image.new("L", (8, 8), 0)
        image.paste(1, (4, 0, 8, 8))
        return encode(image, "PNG", transparency=1)
    image = Image.new(mode, (8, 8))
    image.paste((*[0] * (len(image.getbands()) - 1), 255), (0, 0, 4, 8))
    return encode(image, "PNG")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    """What shows through is white, whatever the mode and the colour hidden there."""
    decoded = decode(transparent(mode), SETTINGS)
    assert (pixel(decoded, 1, 4), pixel(decoded, 6, 4)) == ([0, 0, 0], [255, 255, 255])


def test_half_transparency() -> None:
    """Half-transparent black over white is grey."""
    decoded = decode(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"), SETTINGS)
    assert pixel(decoded, 4, 4) == [127, 127, 127]


TURNED_BY = {  # what turns an upright picture into the stored one, by its EXIF orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", TURNED_BY)
def test_exif_orientation(kind: str, orientation: int) -> None:
    """A picture that a camera stored turned comes out upright, in every format that can say so."""
    method = TURNED_BY[orientation]
    stored = scene() if method is None else scene().transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_scene(decode(encode(stored, kind, exif=exif), SETTINGS), tolerance=90)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif(exif: bytes) -> None:
    """Damaged metadata does not spoil a good picture."""
    assert_scene(decode(encode(scene(), "JPEG", exif=exif, quality=95), SETTINGS), tolerance=90)


@pytest.mark.parametrize("size", [(1000, 2), (2, 1000), (2, 2)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    """An image may be as thin as `min_side`."""
    assert size == decode(encode(Image.new("RGB", size), "PNG"), SETTINGS).size


def test_first_frame() -> None:
    """Of an animation the first frame counts."""
    frames = [scene(), Image.new("RGB", (48, 32)), Image.new("RGB", (48, 32), WHITE)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        source = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert_scene(decode(source, SETTINGS), tolerance=90)


# ---- hostile images: 53 to 60


def test_size_is_checked_before_pixels() -> None:
    """A small file that says 50000x50000 is refused without allocating its 7.5 GB."""
    source = png(50_000, 50_000, (b"IDAT", zlib.compress(bytes(1000))))
    with pytest.raises(ImageTooLarge) as caught:
        decode(source, SETTINGS)
    assert caught.value.ctx == {"max_pixels": 50_000_000, "width": 50_000, "height": 50_000}


def bomb(kind: str) -> bytes:
    """An image of a few kB that says that it is enormous."""
    side = 60_000
    if kind == "PNG":
        return png(side, side, (b"IDAT", zlib.compress(bytes(1000))))
    source = bytearray(encode(Image.new("RGB", (64, 64)), kind))
    if kind == "GIF":
        source[6:10] = struct.pack("<HH", side, side)
    if kind == "BMP":
        source[18:26] = struct.pack("<ii", side, side)
    if kind == "JPEG":
        start = source.index(b"\xff\xc0") + 5
        source[start : start + 4] = struct.pack(">HH", side, side)
    return bytes(source)


def webp_bomb() -> bytes:
    """An animated WebP of one frame of 8x8 pixels on a canvas of 32768x32768."""
    side = (32768 - 1).to_bytes(3, "little")
    picture = encode(Image.new("RGBA", (8, 8)), "WEBP", lossless=True)[12:]
    chunks = (
        (b"VP8X", b"\x02\0\0\0" + side + side),
        (b"ANIM", bytes(6)),
        (b"ANMF", bytes(6) + b"\x07\0\0\x07\0\0" + bytes(4) + picture),
    )
    body = b"".join(name + struct.pack("<I", len(data)) + data for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


TIFF_BOMB = tiff(
    (256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
    (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 60_000), (279, 4, 1, 64), data=bytes(64),
)  # fmt: skip
# 10x10 pixels in one tile of 20000x20000
TILE_BOMB = tiff(
    (256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
    (277, 3, 1, 1), (322, 4, 1, 20_000), (323, 4, 1, 20_000), (324, 4, 1, 8), (325, 4, 1, 64),
    data=bytes(64),
)  # fmt: skip


@pytest.mark.parametrize(
    "source",
    [*(bomb(kind) for kind in ("PNG", "GIF", "BMP", "JPEG")), TIFF_BOMB, TILE_BOMB, webp_bomb()],
    ids=["PNG", "GIF", "BMP", "JPEG", "TIFF", "TIFF-tile", "WEBP"],
)
def test_bombs(source: bytes) -> None:
    """No format gets past the limit of pixels, and none warns."""
    assert len(source) < 20_000
    with pytest.raises(ImageTooLarge):
        decode(source, SETTINGS)


def test_bombs_need_no_memory() -> None:
    """All of them together fit into a process that may not grow by more than 200 MB."""
    script = (
        "import resource, sys\n"
        "from deployments.errors import InputError\n"
        "from deployments.images.decode import decode\n"
        "from deployments.settings import PreprocessSettings\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "for line in sys.stdin:\n"
        "    try: decode(bytes.fromhex(line), PreprocessSettings())\n"
        "    except InputError: continue\n"
        "    raise SystemExit('decoded')\n"
        "raise SystemExit(peak() - before > 200)\n"
    )
    sources = [*(bomb(kind) for kind in ("PNG", "GIF", "BMP", "JPEG"))]
    sources += [TIFF_BOMB, TILE_BOMB, webp_bomb()]
    lines = "\n".join(source.hex() for source in sources)
    command = [sys.executable, "-W", "error", "-c", script]
    assert subprocess.run(command, input=lines, text=True, timeout=60, check=False).returncode == 0


def test_limit_of_pixels_is_inclusive() -> None:
    """An image of exactly `max_pixels` passes, one of a row more does not."""
    limits = PreprocessSettings(max_pixels=100)
    assert decode(encode(Image.new("RGB", (10, 10)), "PNG"), limits).size == (10, 10)
    with pytest.raises(ImageTooLarge):
        decode(encode(Image.new("RGB", (10, 11)), "PNG"), limits)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1)])
def test_too_small(size: tuple[int, int]) -> None:
    """A side under `min_side` is refused, and the error says what is needed."""
    with pytest.raises(ImageTooSmall) as caught:
        decode(encode(Image.new("RGB", size), "PNG"), SETTINGS)
    assert caught.value.ctx == {"min_width": 2, "min_height": 2}


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
def test_no_pixels(width: int, height: int) -> None:
    """A side of no pixels is damage."""
    with pytest.raises(ImageLoadError):
        decode(png(width, height, (b"IDAT", zlib.compress(b""))), SETTINGS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_truncated(kind: str) -> None:
    """Half a file is an error that names its format, never a half-grey picture."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    source = encode(Image.fromarray(noise), kind)
    for end in (len(source) // 2, len(source) // 10, 40):
        with pytest.raises(ImageLoadError, match="damaged or incomplete"):
            decode(source[:end], SETTINGS)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        (
            "SVG",
            b"<?xml version='1.0'?>\n<!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>\n"
            b"<svg><text>&x;</text></svg>",
        ),
        ("HTML", b"\n <!DOCTYPE html><title>404</title>"),
        ("HTML", b"<HTML><svg/></HTML>"),
        ("HTML", b"<!-- 404 --><html>"),
        ("XML", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
        ("PDF", b"%PDF-1.7\n"),
        ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("EPS", b"\xc5\xd0\xd3\xc6" + bytes(30)),
        ("PSD", b"8BPS\0\x01" + bytes(30)),
        ("WMF", b"\xd7\xcd\xc6\x9a" + bytes(30)),
        ("EMF", b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(30)),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("MP4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42"),
        ("ICO", b"\0\0\x01\0\x01\0" + bytes(30)),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
        ("JPEG XL", b"\xff\x0a" + bytes(30)),
        ("ZIP", b"PK\x03\x04" + bytes(30)),
        ("gzip", b"\x1f\x8b\x08" + bytes(30)),
        ("HDF5", b"\x89HDF\r\n\x1a\n"),
        ("PNM", b"P6 2 2 255\n" + bytes(12)),
    ],
)
def test_unsupported(name: str, source: bytes) -> None:
    """A known format that is not read is named, and so are those that are; none is opened."""
    with pytest.raises(UnsupportedImageFormat, match=name) as caught:
        decode(source, SETTINGS)
    assert caught.value.ctx == {
        "supported_formats": ["png", "jpeg", "webp", "gif", "bmp", "tiff", "avif"]
    }


@pytest.mark.parametrize(
    "source", [b"", b"\0", b"hello", b'{"detail": "not found"}', b"\xff\xd8", bytes(1000)]
)
def test_no_image(source: bytes) -> None:
    """Bytes that have no image's signature are no image."""
    with pytest.raises(ImageLoadError, match="the file is not an image"):
        decode(source, SETTINGS)


@pytest.mark.parametrize(
    "signature",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"RIFF\x10\0\0\0WEBP",
        b"GIF89a",
        b"II*\0",
        b"MM\0*",
        b"BM",
        b"\0\0\0\x1cftypavif",
    ],
)
@pytest.mark.parametrize("rest", [b"", bytes(1000), b"\xff" * 1000, b"<html>" * 100])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_signature_and_nothing_else(signature: bytes, rest: bytes) -> None:
    """A signature before nonsense is a damaged file."""
    with pytest.raises(ImageLoadError, match="damaged or incomplete"):
        decode(signature + rest, SETTINGS)


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_ten_thousand_frames(kind: str) -> None:
    """The frames of an animation after the first cost nothing."""
    source = gif(10_000) if kind == "GIF" else apng(10_000)
    started = time.process_time()
    assert decode(source, SETTINGS).size == (4, 4)
    assert time.process_time() - started < 0.2


def apng(num_frames: int) -> bytes:
    """An animated PNG of `num_frames` frames of 4x4 pixels."""
    rows = zlib.compress(bytes(4 * (1 + 4 * 3)))
    chunks = [(b"acTL", struct.pack(">II", num_frames, 0))]
    for frame in range(num_frames):
        control = struct.pack(">IIIIIHHBB", max(0, 2 * frame - 1), 4, 4, 0, 0, 1, 9, 0, 0)
        number = struct.pack(">I", 2 * frame)
        chunks += [(b"fcTL", control), (b"fdAT", number + rows) if frame else (b"IDAT", rows)]
    return png(4, 4, *chunks)


def test_jpeg_of_many_scans() -> None:
    """A JPEG of thousands of scans, each a pass over all pixels, is refused before the first."""
    source = encode(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    start = source.rindex(b"\xff\xda")
    source = source[:start] + source[start:-2] * 5000 + b"\xff\xd9"
    started = time.process_time()
    with pytest.raises(ImageLoadError):
        decode(source, SETTINGS)
    assert time.process_time() - started < 0.2


def test_compressed_text_in_png() -> None:
    """A text chunk that unfolds to a gigabyte is not kept."""
    text = (b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000)))
    with pytest.raises(ImageLoadError):
        decode(png(4, 4, text, (b"IDAT", zlib.compress(bytes(52)))), SETTINGS)


SOURCES = [encode(scene(), kind) for kind in SUPPORTED]


@given(st.sampled_from(SOURCES), st.data())
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_any_damage_is_an_input_error(source: bytes, data: st.DataObject) -> None:
    """Whatever bytes are changed, the answer is a picture or the client's error."""
    damaged = bytearray(source)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, min(len(source) - 1, 300)))] = data.draw(
            st.integers(0, 255)
        )
    with contextlib.suppress(InputError):
        assert decode(bytes(damaged), SETTINGS).mode == "RGB"


# ---- pixels


@pytest.mark.parametrize("size", [(768, 768), (7, 3)])
def test_to_pixels(size: tuple[int, int]) -> None:
    """Pixels are writable, C-contiguous uint8 of (height, width, 3), as Pillow resizes."""
    pixels = to_pixels(scene(), size, Image.Resampling.BICUBIC)
    assert pixels.shape == (size[1], size[0], 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.array_equal(pixels, np.asarray(scene().resize(size, Image.Resampling.BICUBIC)))
