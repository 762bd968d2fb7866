"""The pictures that a command is given: files, folders, patterns, URLs, lists, standard input."""

import glob
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from deployments.errors import SetupError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
LISTS = {".txt", ".jsonl"}
STDIN = "-"
NAMES = ("image", "image_url", "input")  # of the picture in a line of JSON


@dataclass(frozen=True)
class Source:
    """A picture by its name as given, the one below its folder, and fields for it alone."""

    name: str
    short: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_url(self) -> bool:
        """Whether the service fetches it itself."""
        return is_url(self.name)


@dataclass
class Sources:
    """Pictures, each once, and what is to be said of what was given."""

    found: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)  # what was given and holds no picture


def read_sources(given: Sequence[str], *, recursive: bool = False) -> Sources:
    """All pictures in what was given.

    Raises:
        SetupError: a list cannot be read, or has a line that names no picture.
    """
    sources, known = Sources(), set[tuple[str, str]]()
    for text in given:
        found = list(pictures_in(text, recursive, sources.notes))
        if not found:
            sources.empty.append(text)
        for source in found:
            key = source.name, json.dumps(source.fields, sort_keys=True)
            if key not in known:
                known.add(key)
                sources.found.append(source)
    return sources


def pictures_in(text: str, recursive: bool, notes: list[str]) -> Iterator[Source]:
    """The pictures in one argument."""
    if is_url(text):
        yield Source(text, text)
    elif text == STDIN:
        yield from in_lines("standard input", sys.stdin, Path())
    elif is_folder(text):
        yield from in_folder(Path(text), recursive, notes)
    elif Path(text).suffix.lower() in LISTS:
        yield from in_list(Path(text))
    elif glob.has_magic(text) and not exists(text):
        names = sorted(glob.glob(text, recursive=True))  # noqa: PTH207
        yield from (Source(name, name) for name in names if is_picture(Path(name)))
    else:
        yield Source(text, text)


def in_folder(folder: Path, recursive: bool, notes: list[str]) -> Iterator[Source]:
    """The pictures in a folder, in the order of their names; notes what it leaves out."""
    files = sorted(folder.rglob("*") if recursive else folder.iterdir())
    yield from (
        Source(str(file), file.relative_to(folder).as_posix()) for file in files if is_picture(file)
    )
    below = [] if recursive else [file for file in files if file.is_dir()]
    if below:
        notes.append(f"{folder}: {len(below)} folders in it were left out; -r looks into them")


def in_list(file: Path) -> Iterator[Source]:
    """The pictures that a list names; relative names are from its folder.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            yield from in_lines(str(file), lines, file.parent)
    except OSError as error:
        raise SetupError(f"cannot read the list {file} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SetupError(f"{file} is no list: write a name or a JSON object a line") from None


def in_lines(what: str, lines: TextIO | Iterable[str], folder: Path) -> Iterator[Source]:
    """A picture from each line that is not empty: a name, or JSON with its fields."""
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()):
            continue
        fields: dict[str, Any] = {}
        if text.startswith("{"):
            text, fields = from_json(f"{what}, line {number}", text)
        name = text if is_url(text) else str(folder / text)
        yield Source(name, text, fields)


def from_json(where: str, text: str) -> tuple[str, dict[str, Any]]:
    """The picture and the fields in a line.

    Raises:
        SetupError: it has no picture.
    """
    try:
        fields = dict(json.loads(text))
        name = next(fields.pop(each) for each in NAMES if isinstance(fields.get(each), str))
    except (ValueError, TypeError, StopIteration):
        raise SetupError(
            f'{where} names no picture: write {{"image": "a.jpg", "text_input": "…"}}'
        ) from None
    taken = {each: fields[each] for each in ("text_input", "region") if each in fields}
    return name, taken


def is_url(name: str) -> bool:
    """Whether the service fetches it itself."""
    return name.startswith(("http://", "https://", "data:"))


def exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # a name that is too long
        return False


def is_folder(name: str) -> bool:
    """Whether it names a folder, and not a file or nothing that could exist."""
    try:
        return Path(name).is_dir()
    except OSError:  # a name that is too long
        return False


def is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.is_file()
