"""What the clients of a drill have seen."""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class LoadCounts:
    """Counted by many threads at once.

    `runs` and `queued` are the requests that were begun; `raw` says what single calls failed of,
    `final` what was still failed when the client had called as often as it does.
    `acknowledged` are the ids of all submits that were answered, `answers` the different outputs,
    `longest_s` the longest time from a request to its answer.
    """

    runs: int = 0
    queued: int = 0
    raw: Counter[str] = field(default_factory=Counter)
    final: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    without_picture: int = 0
    longest_s: float = 0.0
    last_answer: str = ""
    last_failure: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def began(self, is_queued: bool) -> None:
        """A client asks for something new."""
        with self._lock:
            self.queued += is_queued
            self.runs += not is_queued

    def failed_once(self, what: str) -> None:
        """A call failed; its client may retry."""
        with self._lock:
            self.raw[what] += 1
            self.last_failure = time.monotonic()

    def failed(self, what: str) -> None:
        """A client has given up."""
        with self._lock:
            self.final[what] += 1

    def acknowledge(self, id_: str) -> None:
        """A submit was answered."""
        with self._lock:
            self.acknowledged.add(id_)

    def answered(self, output: dict[str, Any], seconds: float) -> None:
        """A request ended."""
        with self._lock:
            self.last_answer = json.dumps(output["results"], sort_keys=True)
            self.answers[self.last_answer] += 1
            self.without_picture += output["image"] is None
            self.longest_s = max(self.longest_s, seconds)
