"""The logs and traces that a running service writes."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.telemetry import spans

TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Observed:
    """Reads the JSON logs and the spans from their folders."""

    logs: Path
    traces: Path

    def line(self, event: str, request_id: str) -> dict[str, Any]:
        """Wait for the request's only log line that begins with `event`."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            found = [line for line in self._about(request_id) if line["message"].startswith(event)]
            if found:
                [line] = found
                return line
            assert time.monotonic() < deadline, f"no line {event} about {request_id}"
            time.sleep(0.1)

    def trace(self, trace_id: str, number: int) -> list[spans.SpanRecord]:
        """Wait for at least `number` spans of a trace."""

        def is_whole(found: Sequence[spans.SpanRecord]) -> bool:
            return len(found) >= number

        return spans.spans_of(self.traces, is_whole, trace_id)

    def text(self) -> str:
        """The content of all files."""
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
