"""Which cores the engine computes on, when it shares a machine with everything else.

The kernel spreads many short tasks over all cores, and so takes the engine's core from it again
and again while another is idle (docs/benchmarks.md has the figures).
Where the system knows no affinity, nothing happens.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserve_cores(num: int) -> Iterator[None]:
    """Keep processes that start inside the block off `num` cores, if others remain."""
    cores = sorted(allowed())
    if num <= 0 or len(cores) <= num:
        yield
        return
    restrict(cores[num:])
    try:
        yield
    finally:
        restrict(cores)


def use_all_cores() -> None:
    """Let this thread, and those that it starts, use the whole machine again."""
    restrict(list(range(os.cpu_count() or 1)))


def allowed() -> set[int]:
    """The cores that this thread may use; none where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def restrict(cores: list[int]) -> None:
    """Keep this thread, and what it starts, on `cores`."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
