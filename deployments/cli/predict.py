"""`florence predict`: images in; tables, JSON, label files and annotated pictures out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from deployments.cli.labelling.asker import Asker, ServiceAway
from deployments.cli.labelling.outputs import (
    SIZED,
    TABLE,
    Filed,
    Records,
    check_format,
    open_output,
    say,
)
from deployments.cli.labelling.progress import RunProgress
from deployments.cli.labelling.run import Run
from deployments.cli.labelling.sources import SUFFIXES, Source, Sources, is_url, read_sources
from deployments.cli.options import KeyOption, StateOption, api_key, make_folder, state_folder
from deployments.cli.questions import Question, check_use, fields_for, fields_of
from deployments.errors import SetupError
from deployments.florence.identity import DEMO, DEMO_NOTE
from deployments.florence.sequence import LONGEST_NGRAM
from deployments.florence.tasks import APP, TASKS
from deployments.local.client import ServiceClient
from deployments.local.state import StateFolder

USUAL_URL = "http://127.0.0.1:8000"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, patterns, URLs, lists, or - for standard input.",
            metavar="IMAGE...",
        ),
    ],
    url: Annotated[
        str | None,
        typer.Option(
            help="Base URL of the service.",
            show_default="the service on this machine, else http://127.0.0.1:8000",
        ),
    ] = None,
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
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="table, jsonl, csv, coco, yolo or labelstudio.",
            show_default="table; jsonl with --output",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File, or folder for yolo, to write the answers to."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on with what is in the output already."),
    ] = True,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into the folders in folders.")
    ] = False,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1, help="Ask at most so many at a time.", show_default="16; 64 with --queue"
        ),
    ] = None,
    queued: Annotated[
        bool,
        typer.Option("--queue", help="Ask through the durable queue, at low priority."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    state: StateOption = None,
) -> None:
    """Ask a running service about images.

    A text file names an image a line, a .jsonl file an object with `image`, and `-` reads either
    from standard input. With --output, a run that was killed goes on where it was. The exit code
    is 1 when an image failed or a source holds none, and 2 when something is set up wrongly.
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
    chosen = format_ or ("jsonl" if as_json or output else TABLE)
    check_format(chosen, tasks, output)
    sources = found_sources(images, recursive=recursive)
    if not sources.found:
        raise typer.Exit(1)
    asked = questions(sources.found, tasks, fields, out)
    folder = state_folder(state)
    with open_client(url or folder.service_url() or USUAL_URL, key, folder) as client:
        asker = Asker(client, parallel or (64 if queued else 16), is_queued=queued)
        records = open_output(tasks, chosen, output, resume=resume)
        has_failed = finish(asker, records, asked, needs_size=chosen in SIZED)
        if isinstance(records, Filed) and records.errors.exists():
            say(f"The failures are in {records.errors}")
        name_model(client.model)
    raise typer.Exit(int(has_failed or bool(sources.empty)))


def found_sources(images: Sequence[str], *, recursive: bool) -> Sources:
    """The images in what was given; says what has none.

    Raises:
        SetupError: a list cannot be read.
    """
    sources = read_sources(images, recursive=recursive)
    for note in sources.notes:
        say(note)
    if sources.empty:
        endings = ", ".join(sorted(SUFFIXES))
        say(f"no image in {', '.join(sources.empty)}: the names of images end in {endings}", "red")
    return sources


def finish(asker: Asker, output: Records, asked: Sequence[Question], *, needs_size: bool) -> bool:
    """Ask everything, and say what came of it; whether something failed."""
    progress, away = RunProgress(len(asked)), ""
    try:
        with progress:
            Run(asker, output, progress, needs_size=needs_size).finish(asked)
    except ServiceAway as error:
        away = str(error)
    finally:
        output.close()
    for line in progress.summary():
        say(line)
    if away:
        say(away, "red")
    return bool(away or progress.failed)


def questions(
    sources: Sequence[Source], tasks: Sequence[str], fields: Mapping[str, Any], out: Path | None
) -> list[Question]:
    """Every task about every image; `fields` are of the tasks' inputs, beside the image.

    Raises:
        SetupError: a field is missing or of no use, or a folder cannot be written.
    """
    asked = [
        Question(each.name, task, fields_for(task, {**fields, **each.fields}), None, each.short)
        for each, task in product(sources, tasks)
    ]
    check_use(fields, tasks)
    if out is None:
        return asked
    make_folder(out)
    pictures = picture_names(list(dict.fromkeys(each.name for each in sources)), tasks, out)
    return [replace(each, picture=pictures[each.image, each.task]) for each in asked]


def open_client(url: str, key: str | None, state: StateFolder) -> ServiceClient:
    """A client with the key that was given, or that is found.

    Raises:
        SetupError: there is no key, or `url` is no URL.
    """
    secret = api_key(key, state)
    if not secret:
        raise SetupError("no API key: give one with --key or in FLORENCE_API_KEY")
    return ServiceClient(url, secret, state.tls / "ca.pem")


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


def name_model(model: str) -> None:
    """Say which model has answered, if one has."""
    if model:
        say(DEMO_NOTE if model == DEMO else f"Answered by {model}")
