"""Which cores the engine computes on, when it shares a machine with everything else.

The kernel spreads many short tasks over all cores, and so takes the engine's core from it again
and again while another is idle.
A start needs every core, so the others leave the engine's cores when the service is ready.
Where the system knows no affinity, nothing happens.
"""

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ENGINE = "engine"  # the name of its threads, which the kernel hands on to those that they start


def name_engine_thread() -> None:
    """Let this thread, and those that it starts, use the whole machine, now and later."""
    if is_known():
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(ENGINE)
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def reserve_cores(num: int, processes: Iterable[int]) -> None:
    """Keep `processes`, given by pid, off `num` cores, but for the engine's threads.

    What these processes start later stays off as well. Nothing happens if no core would be left.
    """
    cores = sorted(os.sched_getaffinity(0)) if is_known() else []
    if num <= 0 or len(cores) <= num:
        return
    for pid in processes:
        while restrict_threads(pid, set(cores[num:])):
            pass  # threads that others started meanwhile


def restrict_threads(pid: int, cores: set[int]) -> int:
    """The number of the process's threads that were not kept on `cores` before."""
    changed = 0
    with suppress(FileNotFoundError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                name = (thread / "comm").read_text().strip()
                if name != ENGINE and os.sched_getaffinity(int(thread.name)) != cores:
                    os.sched_setaffinity(int(thread.name), cores)
                    changed += 1
    return changed


def is_known() -> bool:
    """Whether this system lets a process choose its cores."""
    return hasattr(os, "sched_setaffinity")
