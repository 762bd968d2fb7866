"""Which cores the engine computes on, when it shares a machine with everything else.

The kernel spreads many short tasks over all cores, and so takes the engine's core from it again
and again while another is idle.
A start needs every core, so the others leave the engine's cores when the service is ready.
Where the system knows no affinity, or forbids it, nothing happens.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

ENGINE = "engine"  # the name of its threads, which the kernel hands on to those that they start


def name_engine_thread() -> None:
    """Let this thread, and those that it starts, use every core of the service, now and later."""
    if is_known():
        with suppress(OSError, psutil.Error):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(ENGINE)
            os.sched_setaffinity(0, cores_of_service())


def cores_of_service() -> set[int]:
    """The cores of this process, of Ray's raylet, which started it, and of the raylet's launcher.

    A replica that starts later has fewer than the launcher, which has those that it was given.
    """
    processes = [os.getpid(), *(each.pid for each in psutil.Process().parents()[:2])]
    return set().union(*map(cores_of, processes))


def reserve_cores(num: int, processes: Callable[[], Iterable[int]]) -> None:
    """Keep `processes`, which returns pids, off `num` cores, but for the engine's threads.

    What these processes start later stays off as well. Nothing happens if no core would be left,
    or if no thread is the engine's.
    """
    every = sorted(cores_of(0)) if is_known() else []
    if num <= 0 or len(every) <= num or not any(map(is_engine, threads(processes()))):
        return
    restricted: set[Path] = set()
    while found := threads_elsewhere(processes(), set(every[num:])) - restricted:
        for thread in found:
            restrict(thread, every[num:], every)
        restricted |= found  # what these have started meanwhile comes next


def threads_elsewhere(processes: Iterable[int], cores: set[int]) -> set[Path]:
    """The threads that may use other cores than these, without the engine's."""
    return {
        each
        for each in threads(processes)
        if not is_engine(each) and cores_of(int(each.name)) not in (cores, set())
    }


def restrict(thread: Path, cores: Iterable[int], every: Iterable[int]) -> None:
    with suppress(OSError):
        os.sched_setaffinity(int(thread.name), cores)
        if is_engine(thread):  # since a moment ago
            os.sched_setaffinity(int(thread.name), every)


def threads(processes: Iterable[int]) -> Iterator[Path]:
    """Their folders below /proc."""
    for pid in processes:
        with suppress(OSError):
            yield from list(Path(f"/proc/{pid}/task").iterdir())


def is_engine(thread: Path) -> bool:
    with suppress(OSError):
        return (thread / "comm").read_text().strip() == ENGINE
    return False


def cores_of(pid: int) -> set[int]:
    """The cores that a process or thread may use; none when it has ended."""
    with suppress(OSError):
        return os.sched_getaffinity(pid)
    return set()


def is_known() -> bool:
    """Whether this system lets a process choose its cores."""
    return hasattr(os, "sched_setaffinity")
