"""Processor time of a piece of work that is too short to be timed once."""

import time
from collections.abc import Callable

SECONDS = 0.3


def cpu_ms(work: Callable[[], object]) -> float:
    """Milliseconds of processor time that `work` takes, the mean of many runs after the first."""
    work()
    num, began = 0, time.process_time()
    while time.process_time() - began < SECONDS:
        work()
        num += 1
    return 1000 * (time.process_time() - began) / num
