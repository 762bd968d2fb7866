"""`florence predict`: images in, a table or JSON out, annotated pictures in a folder."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.cli.options import (
    KeyOption,
    StateOption,
    api_key,
    make_folder,
    progress,
    state_folder,
)
from deployments.errors import SetupError
from deployments.florence.tasks import TASKS
from deployments.local.client import CallError, ServiceClient, data_uri_of_file
from deployments.local.state import StateFolder

AT_ONCE = 8
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def predict(
    images: Annotated[
        list[str], typer.Argument(help="Files, folders or URLs.", metavar="IMAGE...")
    ],
    url: Annotated[str, typer.Option(help="Base URL of the service.")] = "http://127.0.0.1:8000",
    key: KeyOption = None,
    task: Annotated[str, typer.Option(help="What to do with each image.")] = "region-proposal",
    out: Annotated[
        Path | None, typer.Option(help="Folder for annotated pictures.", file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each image.")] = False,
    state: StateOption = None,
) -> None:
    """Ask a running service about images.

    The exit code is 1 when one of them failed.
    """
    raise typer.Exit(predict_all(images, url, key, task, out, as_json, state_folder(state)))


@dataclass(frozen=True)
class Prediction:
    """One image with its answer, or with the reason why there is none."""

    image: str
    answer: dict[str, Any] | None = None
    picture: Path | None = None
    error: str | None = None


def predict_all(
    images: Sequence[str],
    url: str,
    key: str | None,
    task: str,
    out: Path | None,
    as_json: bool,
    state: StateFolder,
) -> int:
    """Ask about every image and report; the exit code is 1 when one failed.

    Raises:
        SetupError: no key, no such task, or a folder that cannot be written.
    """
    if task not in TASKS:
        raise SetupError(f"no task {task}: --task takes one of {', '.join(TASKS)}")
    if out is not None:
        make_folder(out)
    secret = api_key(key, state)
    if not secret:
        raise SetupError("no API key: give one with --key or in FLORENCE_API_KEY")
    names = expand(images)
    output, errors = Console(), Console(stderr=True)
    predictions: list[Prediction] = []
    client = ServiceClient(url, secret, state.tls / "ca.pem")
    with client, progress("Asking", len(names)) as advance:
        pictures = picture_names(names, out)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for prediction in threads.map(
                lambda name: predict_one(client, task, name, pictures.get(name)), names
            ):
                predictions.append(prediction)
                advance(1)
    report(output, errors, predictions, as_json)
    return int(any(each.error for each in predictions))


def expand(images: Sequence[str]) -> list[str]:
    """Folders replaced by the images in them; each image once, in the order given."""
    found: list[str] = []
    for image in images:
        if is_folder(image):
            found += sorted(str(file) for file in Path(image).iterdir() if is_image(file))
        else:
            found.append(image)
    return list(dict.fromkeys(found))


def is_url(image: str) -> bool:
    """Whether the service fetches it itself."""
    return image.startswith(("http://", "https://", "data:"))


def is_folder(image: str) -> bool:
    """Whether it names a folder, and not a file, a URL, or nothing that could exist."""
    try:
        return not is_url(image) and Path(image).is_dir()
    except OSError:  # a name that is too long
        return False


def is_image(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES


def picture_names(names: Sequence[str], out: Path | None) -> dict[str, Path]:
    """Where each annotated picture goes; images of the same name get a number."""
    if out is None:
        return {}
    pictures: dict[str, Path] = {}
    for name in names:
        path = urlsplit(name).path if is_url(name) else name
        stem = "image" if name.startswith("data:") else PurePosixPath(path).stem or "image"
        taken = set(pictures.values())
        candidates = (out / f"{stem}{number}.annotated.jpg" for number in numbers())
        pictures[name] = next(file for file in candidates if file not in taken)
    return pictures


def numbers() -> Iterator[str]:
    """Nothing, then -2, -3, …"""
    yield ""
    number = 2
    while True:
        yield f"-{number}"
        number += 1


def predict_one(client: ServiceClient, task: str, name: str, picture: Path | None) -> Prediction:
    """Ask about one image. A failure is a prediction with an error."""
    try:
        image_url = name if is_url(name) else data_uri_of_file(Path(name))
        answer = read_answer(client.run(task, image_url))
        if picture is None or not answer.get("image"):
            return Prediction(name, answer)
        picture.write_bytes(client.download(answer["image"]["url"]))
    except CallError as error:
        return Prediction(name, error=str(error))
    except OSError as error:
        return Prediction(name, error=f"cannot write {picture}: {error.strerror}")
    return Prediction(name, answer, picture)


def read_answer(body: bytes) -> dict[str, Any]:
    """The answer in a body.

    Raises:
        CallError: it is none, as from another kind of server.
    """
    try:
        answer: dict[str, Any] = json.loads(body)
        _ = answer["results"]
    except (ValueError, KeyError, TypeError):
        raise CallError("the answer is not Florence Serve's: check --url") from None
    return answer


def report(
    output: Console, errors: Console, predictions: Sequence[Prediction], as_json: bool
) -> None:
    """Print the answers to standard output, and a line for each failure to standard error."""
    answered = [each for each in predictions if each.answer is not None]
    if as_json:
        for each in answered:
            typer.echo(json.dumps({"input": each.image, **(each.answer or {})}))
    elif answered:
        output.print(table(answered))
    for each in predictions:
        if each.error:
            errors.print(
                f"{each.image[:200]}: {each.error}",
                style="red",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def table(predictions: Sequence[Prediction]) -> Table:
    shown = Table("image", "x", "y", "w", "h", "label")
    for column in shown.columns[1:5]:
        column.justify = "right"
    for each in predictions:
        for row in rows(each):
            shown.add_row(*map(escape, row))
    return shown


def rows(prediction: Prediction) -> Iterator[tuple[str, ...]]:
    """The rows of one image; its name stands in the first."""
    results = (prediction.answer or {})["results"]
    image = prediction.image
    name = image if len(image) < 60 else image[:57] + "…"
    if isinstance(results, str):
        yield name, "", "", "", "", results
        return
    boxes = results["bboxes"]
    if not boxes:
        yield name, "", "", "", "", "(nothing found)"
    for number, box in enumerate(boxes):
        corner = (f"{box[side]:.1f}" for side in ("x", "y", "w", "h"))
        yield name if number == 0 else "", *corner, box["label"]
