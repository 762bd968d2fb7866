"""The journal of a run: a line for each record, so that a run that was killed can go on.

A record is one write at the end of the file. What a kill has cut is removed when the file is
opened again.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from deployments.cli.labelling.record import Record, RecordKey, read_record
from deployments.errors import SetupError


class Journal:
    """The records in `file`; with `resume` those of earlier runs stay.

    Raises:
        SetupError: it cannot be written, or holds something else.
    """

    def __init__(self, file: Path, *, resume: bool) -> None:
        self.file = file
        self.answers: dict[RecordKey, Record] = {}
        self._names: set[tuple[str, RecordKey]] = set()
        try:
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.truncate(self._handle, self._whole() if resume else 0)
            os.lseek(self._handle, 0, os.SEEK_END)
        except OSError as error:
            raise unwritable(file, error) from None

    def __contains__(self, asked: tuple[str, RecordKey]) -> bool:
        """Whether there is a record of this name with this key."""
        return asked in self._names

    def add(self, record: Record) -> None:
        """Write a record. It is in the file when this returns."""
        os.write(self._handle, record.line())
        self._remember(record)

    def records(self) -> Iterator[Record]:
        """All records, in the order in which they were written."""
        with self.file.open("rb") as lines:
            for line in lines:
                yield read_record(line)

    def close(self) -> None:
        os.close(self._handle)

    def _whole(self) -> int:
        """The length of what is whole; remembers the records in it."""
        length = 0
        with self.file.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    self._remember(read_record(line))
                except ValueError:
                    raise SetupError(
                        f"{self.file} is not of an earlier run: name another --output, "
                        "or replace it with --no-resume"
                    ) from None
                length += len(line)
        return length

    def _remember(self, record: Record) -> None:
        self._names.add((record.name, record.key))
        # Only what a duplicate needs.
        self.answers.setdefault(record.key, record)


def unwritable(path: Path, error: OSError) -> SetupError:
    return SetupError(f"cannot write {path} ({error.strerror}): name another --output")
