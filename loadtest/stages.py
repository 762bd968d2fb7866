"""How the latency of an answer splits into the stages of the service.

A run has them in its `Server-Timing` header. Those of a queued request are read from its log, whose
times are the server's own, and from its `inference_time`.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

ENTRY = re.compile(r"([A-Za-z0-9_-]+)\s*;\s*dur=(\d+(?:\.\d+)?)")
RECEIVED, STARTED, COMPLETED = "Received", "Started", "Completed"


def of_run(header: str | None) -> dict[str, float]:
    """Seconds of each stage in a Server-Timing header, in its order; none without a header."""
    return {name: float(ms) / 1000 for name, ms in ENTRY.findall(header or "")}


def of_queued(status: Mapping[str, Any]) -> dict[str, float]:
    """Seconds in the queue, in the model and in the other deployments, from a COMPLETED status.

    A request that was started twice counts as queued until its last attempt.
    """
    times = logged(status.get("logs") or ())
    if not {RECEIVED, STARTED, COMPLETED} <= times.keys():
        return {}
    model = (status.get("metrics") or {}).get("inference_time") or 0.0
    running = times[COMPLETED] - times[STARTED]
    return {
        "queued": max(0.0, times[STARTED] - times[RECEIVED]),
        "model": model,
        "other deployments": max(0.0, running - model),
    }


def logged(logs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """When each thing was logged last, in seconds of the epoch, by the first word of its line."""
    return {
        str(line["message"]).split(",")[0]: datetime.fromisoformat(line["timestamp"]).timestamp()
        for line in logs
    }
