"""A record: one task about one picture with its answer, or with the reason why there is none."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from deployments.cli.predictions import items, place_of

OWN = ("input", "short", "content", "task", "fields", "error")


class RecordKey(NamedTuple):
    """What is asked: two pictures of the same content are asked about once."""

    content: str
    task: str
    fields: str


class FoundShape(NamedTuple):
    """A thing that was found: its label, box (x, y, w, h), corners and score where there is one."""

    label: str
    box: tuple[float, float, float, float]
    corners: list[tuple[float, float]]
    score: float | None


@dataclass(frozen=True)
class Record:
    """A record; `content` is the hash of the picture's bytes, or of its URL."""

    name: str
    short: str
    content: str
    task: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] | None = None
    error: str = ""

    @property
    def key(self) -> RecordKey:
        return key_of(self.content, self.task, self.fields)

    @property
    def shapes(self) -> list[FoundShape]:
        """What was found; none in a text."""
        answer = self.answer or {}
        if not isinstance(answer.get("results"), dict):
            return []
        return [
            FoundShape(item.get("label", ""), place_of(item), corners_of(item), item.get("score"))
            for item in items(answer)
        ]

    @property
    def text(self) -> str:
        """The answer of a task that writes; empty of others."""
        results = (self.answer or {}).get("results")
        return results if isinstance(results, str) else ""

    @property
    def size(self) -> tuple[int, int] | None:
        """The picture's width and height in pixels, where they are known."""
        answer = self.answer or {}
        found = answer.get("size") or answer.get("image") or {}
        return (found["width"], found["height"]) if found.get("width") else None

    def line(self) -> bytes:
        """As a line of JSON."""
        about: dict[str, Any] = {"input": self.name, "content": self.content, "task": self.task}
        if self.short != self.name:
            about["short"] = self.short
        if self.fields:
            about["fields"] = dict(self.fields)
        if self.error:
            about["error"] = self.error
        return json.dumps(about | dict(self.answer or {})).encode() + b"\n"


def read_record(line: bytes) -> Record:
    """The record in a line.

    Raises:
        ValueError: it is none.
    """
    try:
        tree = json.loads(line)
        answer = {name: value for name, value in tree.items() if name not in OWN}
        name = tree["input"]
        return Record(
            name=name,
            short=tree.get("short", name),
            content=tree["content"],
            task=tree["task"],
            fields=tree.get("fields", {}),
            answer=answer or None,
            error=tree.get("error", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no record") from error


def key_of(content: str, task: str, fields: Mapping[str, Any]) -> RecordKey:
    return RecordKey(content, task, json.dumps(dict(fields), sort_keys=True))


def content_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def size_of(data: bytes) -> dict[str, int] | None:
    """Width and height of a picture, turned as its EXIF data say; None if Pillow cannot read it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            is_turned = image.getexif().get(0x0112, 1) >= 5
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return {"width": height, "height": width} if is_turned else {"width": width, "height": height}


def corners_of(item: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(point["x"], point["y"]) for point in item.get("points", ())]


def whole(records: Iterator[Record]) -> Iterator[Record]:
    """Those with an answer."""
    return (record for record in records if record.answer is not None)
