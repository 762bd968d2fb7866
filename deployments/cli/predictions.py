"""What `florence predict` was answered, as tables for people or objects of JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

COLUMNS = ("image", "x", "y", "w", "h", "label")
MORE_COLUMNS = ("score", "corners")  # where there are some
NUMBERS = ("x", "y", "w", "h", "score")
MAX_CORNERS = 4  # that are shown one by one
NOTHING = "(nothing found)"
CUT = "(cut at the limit of tokens)"


@dataclass(frozen=True)
class Prediction:
    """One task about one image with its answer, or with the reason why there is none."""

    image: str
    task: str
    answer: dict[str, Any] | None = None
    picture: Path | None = None
    error: str | None = None


def table(predictions: Sequence[Prediction], title: str | None) -> Table:
    """The rows of all images; scores and corners have a column where there are some."""
    found = [row for each in predictions for row in rows(each)]
    columns = (*COLUMNS, *(name for name in MORE_COLUMNS if any(name in row for row in found)))
    shown = Table(title=title, title_justify="left")
    for name in columns:
        shown.add_column(name, justify="right" if name in NUMBERS else "left")
    for row in found:
        shown.add_row(*(escape(printable(row.get(name, ""))) for name in columns))
    return shown


def printable(text: str) -> str:
    """The text with `?` for what no terminal takes, as in names of files that are no Unicode."""
    return text.encode("utf-8", "replace").decode()


def rows(prediction: Prediction) -> Iterator[dict[str, str]]:
    """The rows of one image by column; its name stands in the first, and a cut answer says so."""
    answer, image = prediction.answer or {}, prediction.image
    name = image if len(image) < 60 else image[:57] + "…"
    first, *others = rows_of(answer)
    yield {"image": name} | first
    yield from others
    if answer.get("truncated"):
        yield {"label": CUT}


def rows_of(answer: Mapping[str, Any]) -> list[dict[str, str]]:
    """One of a text, one for each thing that was found, or one that says that nothing was."""
    if isinstance(answer["results"], str):
        return [{"label": answer["results"] or NOTHING} | score_of(answer)]
    return [row_of(item) for item in items(answer)] or [{"label": NOTHING}]


def items(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The boxes, lines of text or outlines of an answer, whatever it calls them."""
    lists = answer["results"].values()
    return next((each for each in lists if isinstance(each, list)), [])


def row_of(item: Mapping[str, Any]) -> dict[str, str]:
    places = (f"{side:.1f}" for side in place_of(item))
    corners = {"corners": corners_of(item["points"])} if "points" in item else {}
    row = dict(zip("xywh", places, strict=True)) | {"label": item["label"]}
    return row | score_of(item) | corners


def score_of(scored: Mapping[str, Any]) -> dict[str, str]:
    return {"score": f"{scored['score']:.2f}"} if "score" in scored else {}


def place_of(item: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """x, y, w and h of a shape, or of the rectangle around its corners."""
    if "x" in item:
        return item["x"], item["y"], item["w"], item["h"]
    xs, ys = ([point[axis] for point in item["points"]] for axis in ("x", "y"))
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def corners_of(points: Sequence[Mapping[str, float]]) -> str:
    """A few corners as they are, of many their number."""
    if len(points) > MAX_CORNERS:
        return str(len(points))
    return " ".join(f"{point['x']:.0f},{point['y']:.0f}" for point in points)
