"""What is written of the answers: COCO, YOLO, Label Studio and CSV, made from the journal.

Whatever is one file as a whole is written beside and renamed, so a reader never sees a part.
"""

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import quote

import yaml

from deployments.cli.labelling.journal import unwritable
from deployments.cli.labelling.record import FoundShape, Record

UNNAMED = "object"  # the category of boxes without a label
EVERY_S = 5.0  # between two writes of a whole file
SHARE = 20.0  # of which a write takes one
COLUMNS = ("input", "task", "label", "score", "x", "y", "w", "h", "points", "truncated")


class Writer(Protocol):
    """Writes records in a format."""

    def add(self, record: Record) -> None: ...

    def close(self) -> None: ...


def replace_file(file: Path, content: str) -> None:
    """Write a file whole or not at all.

    Raises:
        SetupError: it cannot be written.
    """
    beside = file.with_name(f".{file.name}.part")
    try:
        beside.write_text(content, encoding="utf-8", errors="surrogateescape")
        beside.replace(file)
    except OSError as error:
        raise unwritable(file, error) from None


class Snapshots:
    """Writes a growing file as a whole, at most every EVERY_S, and at the end."""

    def __init__(self, file: Path, content: Callable[[], str]) -> None:
        self._file = file
        self._content = content
        self._due = 0.0

    def changed(self) -> None:
        """Write it, if the last time is long ago."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        began = time.monotonic()
        replace_file(self._file, self._content())
        self._due = time.monotonic() + max(EVERY_S, SHARE * (time.monotonic() - began))


class Numbers(dict[str, int]):
    """Numbers of names, given out in the order of their first use."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    def __missing__(self, name: str) -> int:
        self[name] = len(self) + self._first
        return self[name]


class Coco:
    """One file in COCO's format for object detection and segmentation."""

    def __init__(self, file: Path, records: Iterable[Record]) -> None:
        self._images: dict[str, str] = {}  # JSON, by name
        self._annotations: list[str] = []
        self._numbers, self._categories = Numbers(1), Numbers(1)
        for record in records:
            self._put(record)
        self._snapshots = Snapshots(file, self._content)
        self._snapshots.write()

    def add(self, record: Record) -> None:
        self._put(record)
        self._snapshots.changed()

    def close(self) -> None:
        self._snapshots.write()

    def _put(self, record: Record) -> None:
        width, height = size_in(record)
        image = self._numbers[record.name]
        about = {"id": image, "file_name": record.short, "width": width, "height": height}
        self._images[record.name] = json.dumps(about)
        for shape in record.shapes:
            annotation = {
                "id": len(self._annotations) + 1,
                "image_id": image,
                "category_id": self._categories[shape.label or UNNAMED],
                "bbox": shape.box,
                "segmentation": [[each for point in shape.corners for each in point]]
                if shape.corners
                else [],
                "area": area_of(shape),
                "iscrowd": 0,
            }
            scored = {} if shape.score is None else {"score": shape.score}
            self._annotations.append(json.dumps(annotation | scored))

    def _content(self) -> str:
        categories = (
            json.dumps({"id": number, "name": name, "supercategory": ""})
            for name, number in self._categories.items()
        )
        parts = {
            "images": self._images.values(),
            "annotations": self._annotations,
            "categories": categories,
        }
        lists = (f'"{name}": {json_list(each)}' for name, each in parts.items())
        return "{" + ",\n".join(lists) + "}\n"


class Yolo:
    """A folder with `data.yaml` and, in `labels`, a file for each picture."""

    def __init__(self, folder: Path, records: Iterable[Record]) -> None:
        self._folder = folder
        self._lines: dict[str, list[str]] = {}
        self._classes = Numbers(0)
        self._num_written = -1
        for record in records:
            self.add(record)
        self._write_classes()

    def add(self, record: Record) -> None:
        width, height = size_in(record)
        lines = self._lines.setdefault(record.short, [])
        for shape in record.shapes:
            number = self._classes[shape.label or UNNAMED]
            values = numbers_of(shape, width, height)
            lines.append(" ".join([str(number), *(f"{each:.6f}" for each in values)]))
        self._write_classes()  # before what uses them
        file = self._folder / "labels" / PurePosixPath(record.short.lstrip("/")).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, "".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        pass

    def _write_classes(self) -> None:
        if self._num_written != len(self._classes):
            tree = {"names": list(self._classes), "nc": len(self._classes)}
            text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
            replace_file(self._folder / "data.yaml", text)
            self._num_written = len(self._classes)


class LabelStudio:
    """One file of tasks with predictions, as Label Studio imports them."""

    def __init__(self, file: Path, records: Iterable[Record]) -> None:
        self._predictions: dict[str, list[Any]] = {}
        for record in records:
            self._put(record)
        self._snapshots = Snapshots(file, self._content)
        self._snapshots.write()

    def add(self, record: Record) -> None:
        self._put(record)
        self._snapshots.changed()

    def close(self) -> None:
        self._snapshots.write()

    def _put(self, record: Record) -> None:
        local = f"/data/local-files/?d={quote(record.short)}"
        url = record.name if record.name.startswith(("http", "data:")) else local
        prediction = {"model_version": f"florence-2 {record.task}", "result": results_of(record)}
        self._predictions.setdefault(url, []).append(prediction)

    def _content(self) -> str:
        tasks = (
            json.dumps({"data": {"image": url}, "predictions": each})
            for url, each in self._predictions.items()
        )
        return json_list(tasks) + "\n"


class CsvTable:
    """A row for each thing that was found, and one for a picture with nothing."""

    def __init__(self, file: Path, records: Iterable[Record]) -> None:
        rows = "".join(csv_rows(record) for record in records)
        replace_file(file, as_csv([COLUMNS]) + rows)
        self._handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def add(self, record: Record) -> None:
        os.write(self._handle, csv_rows(record).encode(errors="surrogateescape"))

    def close(self) -> None:
        os.close(self._handle)


def json_list(elements: Iterable[str]) -> str:
    """A list with an element a line."""
    return "[\n" + ",\n".join(elements) + "\n]"


def csv_rows(record: Record) -> str:
    """The rows of one record."""
    truncated = int(bool((record.answer or {}).get("truncated")))
    score = (record.answer or {}).get("score")
    rows: list[tuple[Any, ...]] = [
        (shape.label, shape.score, *shape.box, points_of(shape), truncated)
        for shape in record.shapes
    ] or [(record.text, score, "", "", "", "", "", truncated)]
    return as_csv([(record.name, record.task, *row) for row in rows])


def as_csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def points_of(shape: FoundShape) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in shape.corners)


def size_in(record: Record) -> tuple[int, int]:
    """The picture's size.

    Raises:
        ValueError: it is not known.
    """
    if record.size is None:
        raise ValueError("the size of the picture is not known")
    return record.size


def area_of(shape: FoundShape) -> float:
    """Of the polygon, or of the box."""
    corners = shape.corners
    if not corners:
        return shape.box[2] * shape.box[3]
    following = [*corners[1:], corners[0]]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, following, strict=True))) / 2


def numbers_of(shape: FoundShape, width: int, height: int) -> list[float]:
    """Centre and size, or the corners, as shares of the picture."""
    if shape.corners:
        return [share(n, of) for x, y in shape.corners for n, of in ((x, width), (y, height))]
    x, y, w, h = shape.box
    pairs = ((x + w / 2, width), (y + h / 2, height), (w, width), (h, height))
    return [share(n, of) for n, of in pairs]


def share(number: float, of: int) -> float:
    return min(max(number / of, 0.0), 1.0)


def results_of(record: Record) -> list[dict[str, Any]]:
    """The regions and texts of a prediction; places are percentages."""
    if record.text:
        return [result_of(record, 0, "textarea", "caption", {"text": [record.text]})]
    if not record.shapes:
        return []
    width, height = size_in(record)
    about = {"original_width": width, "original_height": height, "image_rotation": 0}
    found = []
    for number, shape in enumerate(record.shapes):
        label = shape.label or UNNAMED
        if shape.corners:
            points = [[100 * x / width, 100 * y / height] for x, y in shape.corners]
            kind = "polygonlabels"
            value: dict[str, Any] = {"points": points, "closed": True}
        else:
            x, y, w, h = shape.box
            places = {"x": 100 * x / width, "y": 100 * y / height}
            sizes = {"width": 100 * w / width, "height": 100 * h / height}
            kind, value = "rectanglelabels", {**places, **sizes, "rotation": 0}
        result = result_of(record, number, kind, "label", {**value, kind: [label]}) | about
        found.append(result if shape.score is None else result | {"score": shape.score})
    return found


def result_of(
    record: Record, number: int, kind: str, name: str, value: Mapping[str, Any]
) -> dict[str, Any]:
    id_ = f"{record.task}-{number}"
    return {"id": id_, "type": kind, "from_name": name, "to_name": "image", "value": dict(value)}
