"""Asks every question once, and hands every answer to the output."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.cli.labelling.asker import Asker
from deployments.cli.labelling.outputs import Records
from deployments.cli.labelling.progress import RunProgress
from deployments.cli.labelling.record import Record, RecordKey, content_of, size_of
from deployments.cli.questions import Question
from deployments.local.client import CallError, data_uri_of_file

Waiting = list[tuple[int, Question]]  # with the same key; the first one is asked


class Run:
    """Questions on their way. Those of the same content are one, and share its answer."""

    def __init__(
        self, asker: Asker, output: Records, progress: RunProgress, *, needs_size: bool = False
    ) -> None:
        self._asker = asker
        self._output = output
        self._progress = progress
        self._needs_size = needs_size
        self._waiting: dict[RecordKey, Waiting] = {}
        self._done: dict[RecordKey, dict[str, Any]] = {}
        self._keys: list[RecordKey] = []  # in the order of asking
        self._held: dict[int, Record | None] = {}  # until those before are out
        self._next = 0

    def finish(self, questions: Sequence[Question]) -> None:
        """Ask all of them.

        Raises:
            ServiceAway: nobody answers; what was answered is in the output.
        """
        for asked in self._asker.all(self._answer, self._fresh(questions)):
            waiting = self._waiting.pop(self._keys[asked.number])
            first = waiting[0][1]
            if asked.answer is not None:
                self._done[self._keys[asked.number]] = asked.answer
            for index, question in waiting:
                record = self._record(question, self._keys[asked.number].content)
                if question is first:
                    self._progress.note(question.label, asked.seconds, asked.error)
                else:
                    self._progress.copied += 1
                    copy_picture(first, question)
                self._emit(index, replace(record, answer=asked.answer, error=asked.error))

    def _fresh(self, questions: Sequence[Question]) -> Iterator[Question]:
        """Those that must be asked; the others are dealt with on the way."""
        for index, question in enumerate(questions):
            try:
                content = content_of(read(question))
            except OSError as error:
                line = error.strerror or str(error)
                self._progress.note(question.label, 0.0, line)
                self._emit(index, replace(self._record(question, ""), error=line))
                continue
            record = self._record(question, content)
            key = record.key
            if self._output.known(question.image, key):
                self._progress.skipped += 1
                self._emit(index, None)
            elif known := self._done.get(key) or self._output.answer_to(key):
                self._progress.copied += 1
                self._emit(index, replace(record, answer=known))
            elif key in self._waiting:
                self._waiting[key].append((index, question))
            else:
                self._waiting[key] = [(index, question)]
                self._keys.append(key)
                yield question

    def _answer(self, question: Question) -> dict[str, Any]:
        """The answer to a question, in a thread.

        Raises:
            CallError: there is none.
            ServiceAway: nobody answers.
        """
        is_url, picture = question.is_url, question.picture
        image_url = question.image if is_url else data_uri_of_file(Path(question.image))
        answer = read_answer(self._asker.ask(question.task, image_url, **question.fields))
        if self._needs_size and not answer.get("image"):
            size = None if is_url else size_of(Path(question.image).read_bytes())
            if size is None and isinstance(answer["results"], dict):
                raise CallError("its size is not known, so its boxes cannot be written")
            answer |= {"size": size} if size else {}
        if picture is not None and answer.get("image"):
            content = self._asker.download(answer["image"]["url"])
            try:
                picture.write_bytes(content)
            except OSError as error:
                raise CallError(f"cannot write {picture}: {error.strerror}") from None
        return answer

    def _record(self, question: Question, content: str) -> Record:
        name, short = question.image, question.short or question.image
        return Record(name, short, content, question.task, question.fields)

    def _emit(self, index: int, record: Record | None) -> None:
        """Hand a record to the output, in the questions' order if that matters to it."""
        if not self._output.is_ordered:
            if record:
                self._output.add(record)
            return
        self._held[index] = record
        while self._next in self._held:
            if found := self._held.pop(self._next):
                self._output.add(found)
            self._next += 1


def read(question: Question) -> bytes:
    """What makes a picture the same as another: its bytes, or its URL."""
    return (
        question.image.encode(errors="surrogateescape")
        if question.is_url
        else Path(question.image).read_bytes()
    )


def copy_picture(first: Question, other: Question) -> None:
    """The annotated picture of the same content, under the other name."""
    if first.picture and other.picture:
        with suppress(OSError):
            shutil.copyfile(first.picture, other.picture)


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
