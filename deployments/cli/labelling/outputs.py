"""Where records go: to standard output as they come, or to files that a later run goes on with."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import typer
from rich.console import Console

from deployments.cli.labelling.formats import (
    COLUMNS,
    Coco,
    CsvTable,
    LabelStudio,
    Writer,
    Yolo,
    as_csv,
    csv_rows,
)
from deployments.cli.labelling.journal import Journal, unwritable
from deployments.cli.labelling.record import Record, RecordKey
from deployments.cli.predictions import Prediction, printable, table
from deployments.errors import SetupError
from deployments.florence.schemas import Shapes
from deployments.florence.tasks import TASKS

TABLE = "table"
FORMATS = (TABLE, "jsonl", "csv", "coco", "yolo", "labelstudio")
WRITERS: dict[str, Callable[[Path, Iterable[Record]], Writer]] = {
    "csv": CsvTable,
    "coco": Coco,
    "yolo": Yolo,
    "labelstudio": LabelStudio,
}
SIZED = ("coco", "yolo", "labelstudio")  # they need the picture's size
ROWS_AT_ONCE = 50  # records of one table


class Records(Protocol):
    """Takes records; `known` are those of earlier runs, `is_ordered` says that order matters."""

    is_ordered: bool

    def known(self, name: str, key: RecordKey) -> bool: ...

    def answer_to(self, key: RecordKey) -> Mapping[str, Any] | None: ...

    def add(self, record: Record) -> None: ...

    def close(self) -> None: ...


class Printed:
    """Standard output; a failure is a line on standard error. Nothing is known."""

    is_ordered = True

    def __init__(self, tasks: Sequence[str], format_: str) -> None:
        self._tasks = tasks
        self._format = format_
        self._shown: list[Prediction] = []
        if format_ == "csv":
            typer.echo(as_csv([COLUMNS]), nl=False)

    def known(self, name: str, key: RecordKey) -> bool:
        return False

    def answer_to(self, key: RecordKey) -> Mapping[str, Any] | None:
        return None

    def add(self, record: Record) -> None:
        if record.error:
            several = f": {record.task}" if len(self._tasks) > 1 else ""
            say(f"{record.name[:200]}{several}: {record.error}", style="red")
        elif self._format == TABLE:
            self._shown.append(Prediction(record.name, record.task, dict(record.answer or {})))
            if len(self._shown) >= ROWS_AT_ONCE:
                self.close()
        else:
            text = record.line().decode() if self._format == "jsonl" else csv_rows(record)
            typer.echo(text, nl=False)

    def close(self) -> None:
        shown, self._shown = self._shown, []
        for task in self._tasks:
            if of_task := [each for each in shown if each.task == task]:
                Console().print(table(of_task, task if len(self._tasks) > 1 else None))


class Filed:
    """Files: the journal, what is made of it in another format, and failures beside."""

    is_ordered = False

    def __init__(self, path: Path, format_: str, *, resume: bool) -> None:
        journal, self.errors = files_of(path, format_)
        is_foreign = path.exists() and not journal.exists() and any_content(path)
        if resume and is_foreign:
            raise SetupError(
                f"{path} is not of an earlier run: name another --output, "
                "or replace it with --no-resume"
            )
        try:
            if format_ == "yolo" and not resume:
                shutil.rmtree(path / "labels", ignore_errors=True)
            journal.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from None
        self._journal = Journal(journal, resume=resume)
        self._failures = Journal(self.errors, resume=False)
        self._num_failed = 0
        make = WRITERS.get(format_)
        self._writer = make(path, self._journal.records()) if make else None

    def known(self, name: str, key: RecordKey) -> bool:
        return (name, key) in self._journal

    def answer_to(self, key: RecordKey) -> Mapping[str, Any] | None:
        known = self._journal.answers.get(key)
        return known.answer if known else None

    def add(self, record: Record) -> None:
        if record.error:
            self._num_failed += 1
            self._failures.add(record)
            return
        self._journal.add(record)
        if self._writer:
            self._writer.add(record)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
        self._journal.close()
        self._failures.close()
        if not self._num_failed:
            self.errors.unlink(missing_ok=True)


def files_of(path: Path, format_: str) -> tuple[Path, Path]:
    """The journal of an output, and the file of its failures."""
    if format_ == "yolo":
        return path / "records.jsonl", path / "errors.jsonl"
    journal = path if format_ == "jsonl" else path.with_name(f"{path.name}.records.jsonl")
    return journal, path.with_name(f"{path.name}.errors.jsonl")


def any_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0


def open_output(tasks: Sequence[str], format_: str, path: Path | None, *, resume: bool) -> Records:
    """What takes the records.

    Raises:
        SetupError: the format does not exist or does not fit, or the files cannot be used.
    """
    check_format(format_, tasks, path)
    if path is None:
        return Printed(tasks, format_)
    return Filed(path, format_, resume=resume)


def check_format(format_: str, tasks: Sequence[str], path: Path | None) -> None:
    """Refuse what cannot be written.

    Raises:
        SetupError: the message says what can.
    """
    if format_ not in FORMATS:
        raise SetupError(f"no format {format_}: --format takes one of {', '.join(FORMATS)}")
    if format_ in SIZED and path is None:
        what = "FOLDER" if format_ == "yolo" else "FILE"
        raise SetupError(f"--format {format_} needs --output {what}")
    if format_ == TABLE and path is not None:
        raise SetupError(f"--output needs --format: one of {', '.join(FORMATS[1:])}")
    if format_ in ("coco", "yolo"):
        for task in tasks:
            if not issubclass(TASKS[task].results, Shapes):
                raise SetupError(
                    f"{task} finds no shapes, which --format {format_} is for: "
                    "take jsonl, csv or labelstudio"
                )


def say(line: str, style: str | None = None) -> None:
    """Print a line beside the answers."""
    errors = Console(stderr=True)
    errors.print(printable(line), style=style, markup=False, highlight=False, soft_wrap=True)
