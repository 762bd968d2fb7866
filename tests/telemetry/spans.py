"""What the tests read of the spans that a service has written into files."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 90.0


@dataclass(frozen=True)
class SpanRecord:
    """A span as its file has it; ids are hex digits, `parent` empty for none, times in ns."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    status: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    began: str
    ended: str

    @property
    def deployment(self) -> str:
        """Which deployment made it."""
        return str(self.resource["florence.deployment"])


def record_of(line: str) -> SpanRecord:
    """The span in one line of a file."""
    span = json.loads(line)
    context = span["context"]
    return SpanRecord(
        name=span["name"],
        kind=span["kind"].removeprefix("SpanKind.").lower(),
        trace=context["trace_id"].removeprefix("0x"),
        id=context["span_id"].removeprefix("0x"),
        parent=(span["parent_id"] or "").removeprefix("0x"),
        status=span["status"]["status_code"],
        attributes=span["attributes"],
        resource=span["resource"]["attributes"],
        began=span["start_time"],
        ended=span["end_time"],
    )


def spans_in(folder: Path, words: str = "") -> list[SpanRecord]:
    """All spans in the files of a folder that have these words, but for an unfinished line."""
    lines = [line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines(True)]
    return [record_of(line) for line in lines if words in line and line.endswith("\n")]


def spans_of(
    folder: Path, wanted: Callable[[Sequence[SpanRecord]], bool], words: str = ""
) -> list[SpanRecord]:
    """All spans that have these words, as soon as they are what is `wanted`."""
    deadline = time.monotonic() + TIMEOUT_S
    while not wanted(spans := spans_in(folder, words)):
        assert time.monotonic() < deadline, f"these are not what was expected: {spans}"
        time.sleep(0.1)
    return spans


def tree(spans: Sequence[SpanRecord]) -> set[tuple[str, str]]:
    """The name of each span with its parent's; that one is empty when it is not among `spans`."""
    names = {span.id: span.name for span in spans}
    return {(names.get(span.parent, ""), span.name) for span in spans}
