"""What a running service tells its operator: the lines of its log, and its traces."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.telemetry import spans

PATIENCE_S = 90.0


@dataclass(frozen=True)
class Told:
    """The folders of the logs, as JSON, and of the spans."""

    logs: Path
    traces: Path

    def line(self, event: str, request_id: str) -> dict[str, Any]:
        """The line that begins with `event` and is about this request, as soon as it is there."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = [line for line in self._about(request_id) if line["message"].startswith(event)]
            if found:
                [line] = found
                return line
            assert time.monotonic() < deadline, f"no line {event} about {request_id}"
            time.sleep(0.1)

    def trace(self, trace_id: str, number: int) -> list[spans.SpanRecord]:
        """The spans of a trace, as soon as there are `number` of them."""

        def is_whole(found: Sequence[spans.SpanRecord]) -> bool:
            return len([span for span in found if span.trace == trace_id]) >= number

        found = spans.spans_of(self.traces, is_whole)
        return [span for span in found if span.trace == trace_id]

    def text(self) -> str:
        """All of it as it stands in the files."""
        files = [*self.logs.rglob("*.log"), *self.traces.glob("*.jsonl")]
        return "".join(file.read_text(errors="replace") for file in files)

    def _about(self, request_id: str) -> list[dict[str, Any]]:
        lines = [
            line
            for file in self.logs.glob("replica_*.log")
            for line in file.read_text().splitlines(True)
            if request_id in line and line.endswith("\n")
        ]
        return [line for line in map(json.loads, lines) if line.get("request_id") == request_id]
