"""The images that are sent: drawn here, always the same, or the files of a folder."""

import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from deployments.errors import SetupError
from loadtest.bench.answer_lengths import SHORT, brightness, long_lengths
from loadtest.kit.scenarios import Length
from loadtest.scenes import body_with, photograph

Gallery = Mapping[Length, Sequence[bytes]]


def gallery(folder: Path | None, num: int, kinds: set[Length]) -> Gallery:
    """Request bodies for each length; a folder's images serve for all of them.

    Raises:
        SetupError: the folder holds no image, or a file that is none.
    """
    if folder is not None:
        given = tuple(body_of(file) for file in images_in(folder))
        return dict.fromkeys(kinds, given)
    return {kind: [body_with(jpeg) for jpeg in drawn(kind, num)] for kind in kinds}


def body_of(file: Path) -> bytes:
    """A request with the image of a file."""
    content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return body_with(file.read_bytes(), content_type)


def drawn(kind: Length, num: int) -> list[bytes]:
    """JPEGs of scenes, as bright as answers of that kind need on the mixed checkpoint."""
    if kind is Length.ANY:
        return [photograph(seed) for seed in range(num)]
    lengths = long_lengths(num) if kind is Length.LONG else [SHORT] * num
    return [photograph(n, brightness=brightness(length)) for n, length in enumerate(lengths)]


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name; hidden files are passed over.

    Raises:
        SetupError: there is none, or a file that is no image.
    """
    if not folder.is_dir():
        raise SetupError(f"--images {folder}: there is no such folder")
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    if not files:
        raise SetupError(f"--images {folder}: the folder is empty; leave it out to draw images")
    for file in files:
        check(file)
    return files


def check(file: Path) -> None:
    """Refuse what no service could read.

    Raises:
        SetupError: it is no image.
    """
    try:
        Image.open(file).close()
    except (UnidentifiedImageError, OSError):
        raise SetupError(f"--images: {file} is no image; take it out of the folder") from None
