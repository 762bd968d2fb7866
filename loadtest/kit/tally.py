"""The records of a generator, as they come: it shows how many, and writes them in the end."""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from loadtest.kit import record as files
from loadtest.kit.record import Outcome, Record

SHOW_EVERY_S = 5.0
REPEATED = "num_repeated"


class Tally:
    """Gathers records."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.num_repeated = 0  # webhooks
        self._counts: Counter[Outcome] = Counter()
        self._began = self._shown = time.monotonic()
        self._taken = 0

    def add(self, record: Record, **_: Any) -> None:
        """Add one; the signature is that of Locust's listeners."""
        self.records.append(record)
        self._counts[record.outcome] += 1

    def take(self) -> list[dict[str, Any]]:
        """Those since the last call, as plain values."""
        fresh = self.records[self._taken :]
        self._taken = len(self.records)
        return [record.told() for record in fresh]

    def show(self) -> None:
        """Say on standard error how many there are, every five seconds."""
        now = time.monotonic()
        if now - self._shown < SHOW_EVERY_S:
            return
        self._shown = now
        counts = ", ".join(f"{self._counts[outcome]} {outcome}" for outcome in Outcome)
        sys.stderr.write(f"  {now - self._began:4.0f} s: {counts}\n")

    def write(self, file: Path) -> None:
        """Write the records to `file`, and what is known of them all beside it."""
        files.write(self.records, file)
        totals(file).write_text(json.dumps({REPEATED: self.num_repeated}))


def totals(file: Path) -> Path:
    """Where the totals of a file of records are."""
    return file.with_suffix(".totals.json")


def read(file: Path) -> tuple[list[Record], int]:
    """The records, and the webhooks that came again."""
    return files.read(file), int(json.loads(totals(file).read_text())[REPEATED])
