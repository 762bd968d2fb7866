"""`florence predict`: images in, a table or JSON out, annotated pictures in a folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console

from deployments.cli.options import (
    KeyOption,
    StateOption,
    api_key,
    make_folder,
    progress,
    state_folder,
)
from deployments.cli.predictions import Prediction, json_alone, json_by_task, printable, table
from deployments.cli.questions import Question, check_use, fields_for, fields_of
from deployments.errors import SetupError
from deployments.florence.identity import DEMO, DEMO_NOTE
from deployments.florence.sequence import LONGEST_NGRAM
from deployments.florence.tasks import APP, TASKS
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
    task: Annotated[
        str, typer.Option(help="What to do with each image; several, with commas between, at once.")
    ] = "region-proposal",
    text: Annotated[
        str | None, typer.Option(help="Words for a task about words, such as a phrase to find.")
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="Pixels for a task about a region.", metavar="X1,Y1,X2,Y2"),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Say how sure the model was, from 0 to 1.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(help="Leave out what has a lower score, but no text.", min=0, max=1),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="The most tokens of an answer.", min=1, show_default="the service's number"
        ),
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None,
        typer.Option(
            help="Tokens in a row that may not come twice; 0 allows repeats.",
            min=0,
            max=LONGEST_NGRAM,
            show_default="the service's number",
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(help="The adapter that answers, or base.", show_default="the key's own"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for annotated pictures.", file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each image.")] = False,
    state: StateOption = None,
) -> None:
    """Ask a running service about images.

    The exit code is 1 when one of them failed, and 2 when there is none.
    """
    fields = fields_of(
        text,
        region,
        scores=scores or None,
        min_score=min_score,
        max_new_tokens=max_new_tokens,
        no_repeat_ngram_size=no_repeat_ngram_size,
        adapter=adapter,
    )
    tasks = tasks_in(task)
    asked = questions(images, tasks, fields, out)
    with open_client(url, key, state_folder(state)) as client:
        predictions = ask_all(client, asked)
    report(predictions, tasks, as_json)
    name_model(client.model)
    raise typer.Exit(int(any(each.error for each in predictions)))


def questions(
    images: Sequence[str], tasks: Sequence[str], fields: Mapping[str, Any], out: Path | None
) -> list[Question]:
    """Every task about every image; `fields` are of the tasks' inputs, beside the image.

    Raises:
        SetupError: no image, a field that is missing or of no use, or a folder that cannot be
            written.
    """
    given = {task: fields_for(task, fields) for task in tasks}
    check_use(fields, tasks)
    names, pictures = expand(images), {}
    if out is not None:
        make_folder(out)
        pictures = picture_names(names, tasks, out)
    return [
        Question(name, task, given[task], pictures.get((name, task)))
        for name, task in product(names, tasks)
    ]


def open_client(url: str, key: str | None, state: StateFolder) -> ServiceClient:
    """A client with the key that was given, or that is found.

    Raises:
        SetupError: there is no key, or `url` is no URL.
    """
    secret = api_key(key, state)
    if not secret:
        raise SetupError("no API key: give one with --key or in FLORENCE_API_KEY")
    return ServiceClient(url, secret, state.tls / "ca.pem")


def ask_all(client: ServiceClient, asked: Sequence[Question]) -> list[Prediction]:
    """The answers in the questions' order; several are asked at once."""
    predictions: list[Prediction] = []
    with progress("Asking", len(asked)) as advance, ThreadPoolExecutor(AT_ONCE) as threads:
        for prediction in threads.map(partial(ask, client), asked):
            predictions.append(prediction)
            advance(1)
    return predictions


def tasks_in(text: str) -> list[str]:
    """The tasks between commas, each once, in the order given.

    Raises:
        SetupError: one of them does not exist.
    """
    names = (name.strip().strip("/").removeprefix(f"{APP}/") for name in text.split(","))
    tasks = list(dict.fromkeys(names))
    for task in tasks:
        if task not in TASKS:
            raise SetupError(f"no task {task}: --task takes one of {', '.join(TASKS)}")
    return tasks


def expand(images: Sequence[str]) -> list[str]:
    """Folders replaced by the images in them; each image once, in the order given.

    Raises:
        SetupError: there is none in all of them.
    """
    found: list[str] = []
    for image in images:
        if is_folder(image):
            found += sorted(str(file) for file in Path(image).iterdir() if is_image(file))
        else:
            found.append(image)
    if not found:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SetupError(f"no image in {', '.join(images)}: the names of images end in {endings}")
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


def picture_names(
    names: Sequence[str], tasks: Sequence[str], out: Path
) -> dict[tuple[str, str], Path]:
    """Where the annotated picture of each image and task goes.

    Images of the same name get a number. Of several tasks, each stands in its pictures' names.
    """
    stems = picture_stems(names)
    middles = {task: f".{task}" if len(tasks) > 1 else "" for task in tasks}
    return {
        (name, task): out / f"{stems[name]}{middles[task]}.annotated.jpg"
        for name, task in product(names, tasks)
    }


def picture_stems(names: Sequence[str]) -> dict[str, str]:
    """What the pictures of each image are called, without the end."""
    stems: dict[str, str] = {}
    for name in names:
        stem = "image" if name.startswith("data:") else PurePosixPath(path_in(name)).stem or "image"
        taken = set(stems.values())
        candidates = (f"{stem}{number}" for number in numbers())
        stems[name] = next(each for each in candidates if each not in taken)
    return stems


def path_in(name: str) -> str:
    """The path of a file or of a URL; none of what only begins as a URL."""
    try:
        return urlsplit(name).path if is_url(name) else name
    except ValueError:  # the service says what is wrong with it
        return ""


def numbers() -> Iterator[str]:
    """Nothing, then -2, -3, …"""
    yield ""
    number = 2
    while True:
        yield f"-{number}"
        number += 1


def ask(client: ServiceClient, question: Question) -> Prediction:
    """The answer to a question. A failure is a prediction with an error."""
    name, task, picture = question.image, question.task, question.picture
    try:
        image_url = name if is_url(name) else data_uri_of_file(Path(name))
        answer = read_answer(client.run(task, image_url, **question.fields))
        if picture is None or not answer.get("image"):
            return Prediction(name, task, answer)
        picture.write_bytes(client.download(answer["image"]["url"]))
    except CallError as error:
        return Prediction(name, task, error=str(error))
    except OSError as error:
        return Prediction(name, task, error=f"cannot write {picture}: {error.strerror}")
    return Prediction(name, task, answer, picture)


def read_answer(body: bytes) -> dict[str, Any]:
    """The answer in a body.

    Raises:
        CallError: it is none, as from another kind of server.
    """
    try:
        answer: dict[str, Any] = json.loads(body)
        is_ours = isinstance(answer["results"], str | dict)
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise CallError("the answer is not Florence Serve's: check --url")
    return answer


def report(predictions: Sequence[Prediction], tasks: Sequence[str], as_json: bool) -> None:
    """Print the answers to standard output, and a line for each failure to standard error."""
    several = len(tasks) > 1
    answered = [each for each in predictions if each.answer is not None]
    if as_json:
        for line in json_by_task(answered) if several else map(json_alone, answered):
            typer.echo(json.dumps(line))
    else:
        for task in tasks:
            if of_task := [each for each in answered if each.task == task]:
                Console().print(table(of_task, task if several else None))
    for each in predictions:
        if each.error:
            of_which = f"{each.image[:200]}: {each.task}" if several else each.image[:200]
            say(f"{of_which}: {each.error}", style="red")


def name_model(model: str) -> None:
    """Say which model has answered, if one has."""
    if model:
        say(DEMO_NOTE if model == DEMO else f"Answered by {model}")


def say(line: str, style: str | None = None) -> None:
    """Print a line beside the answers."""
    errors = Console(stderr=True)
    errors.print(printable(line), style=style, markup=False, highlight=False, soft_wrap=True)
