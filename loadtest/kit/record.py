"""What came of one arrival."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """How an arrival ended."""

    OK = "ok"
    REFUSED = "refused"  # 429: overload is an answer, and no error
    FAILED = "failed"  # any other refusal, no answer, a wrong one, a lost connection


@dataclass(frozen=True)
class Record:
    """One arrival; seconds, the first two from the start of the schedule.

    `latency_s` counts from the scheduled arrival, so that a wait which the server causes, or the
    generator, is part of it; `lag_s` is the generator's own part.
    `stages` are the server's, in the order in which they happened.
    """

    kind: str
    at_s: float
    latency_s: float
    lag_s: float
    outcome: Outcome
    status: int = 0
    error: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    request_id: str = ""  # under which the service's log can be searched
    worker: int = 0

    @property
    def end_s(self) -> float:
        """When it ended."""
        return self.at_s + self.latency_s

    @property
    def outside_s(self) -> float:
        """What no stage accounts for: network, proxies, the Ingress, polls, waiting to be read."""
        return max(0.0, self.latency_s - sum(self.stages.values()))

    def told(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def of(told: Mapping[str, Any]) -> "Record":
        """A record from plain values."""
        return Record(**{**told, "outcome": Outcome(told["outcome"])})


def write(records: Iterable[Record], file: Path) -> None:
    """One JSON object a line, in the order of arrival."""
    ordered = sorted(records, key=lambda record: record.at_s)
    file.write_text("".join(json.dumps(record.told()) + "\n" for record in ordered))


def read(file: Path) -> list[Record]:
    """The records in a file that `write` wrote."""
    return [Record.of(json.loads(line)) for line in file.read_text().splitlines()]
