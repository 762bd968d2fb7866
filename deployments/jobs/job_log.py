"""The log of a job as every store keeps it: one JSON object a line, in order, append-only."""

import json
from collections.abc import Iterable

from deployments.jobs.job import JobOutcome, JobState, LogEntry, LogLine, compact

RECEIVED = LogLine("Received")
CANCEL_ASKED = LogLine("Cancellation requested")
QUEUED_AGAIN = LogLine("Queued again")
COMPLETED = LogLine("Completed")


def started(attempt: int) -> LogLine:
    """The line of a claim; attempts count from 1."""
    return LogLine(f"Started, attempt {attempt}")


def ended(outcome: JobOutcome) -> tuple[LogLine, ...]:
    """The lines of the end; an error is among the outcome's own lines."""
    if outcome.state is JobState.DONE:
        return (*outcome.logs, COMPLETED)
    return outcome.logs


def queued_again(outcome: JobOutcome) -> tuple[LogLine, ...]:
    """The lines of an attempt that failed with `outcome` and is not the last."""
    return (*outcome.logs, QUEUED_AGAIN)


def encode(lines: Iterable[LogLine], now: float) -> str:
    return "".join(compact(vars(entry(line, now))) + "\n" for line in lines)


def decode(text: str) -> tuple[LogEntry, ...]:
    # Not splitlines(): a message may hold separators that JSON leaves as they are.
    return tuple(LogEntry(**json.loads(line)) for line in text.split("\n") if line)


def entry(line: LogLine, now: float) -> LogEntry:
    return LogEntry(line.message, line.level, now - line.age_s)
