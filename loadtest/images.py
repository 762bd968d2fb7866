"""The images that are sent: drawn here, always the same, or the files of a folder."""

import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from deployments.errors import SetupError
from loadtest.bench.answer_lengths import SHORT, brightness, long_lengths
from loadtest.scenarios import AnswerLength
from loadtest.scenes import body_with, photograph

Bodies = Mapping[AnswerLength, Sequence[bytes]]


def request_bodies(folder: Path | None, lengths: set[AnswerLength], num: int = 32) -> Bodies:
    """Request bodies for each length; the images of a folder serve for all of them.

    Raises:
        SetupError: the folder holds no image, or a file that is none.
    """
    if folder is not None:
        given = tuple(body_of(file) for file in images_in(folder))
        return dict.fromkeys(lengths, given)
    return {length: [body_with(jpeg) for jpeg in drawn(length, num)] for length in lengths}


def body_of(file: Path) -> bytes:
    content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return body_with(file.read_bytes(), content_type)


def drawn(length: AnswerLength, num: int) -> list[bytes]:
    """JPEGs of scenes, as bright as answers of that length need on the mixed checkpoint."""
    if length is AnswerLength.ANY:
        return [photograph(seed) for seed in range(num)]
    tokens = long_lengths(num) if length is AnswerLength.LONG else [SHORT] * num
    return [photograph(n, brightness=brightness(each)) for n, each in enumerate(tokens)]


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
        try:
            Image.open(file).close()
        except (UnidentifiedImageError, OSError):
            raise SetupError(f"--images: {file} is no image; take it out of the folder") from None
    return files
