"""Which cores the engine and the others use."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

import pytest

from deployments.florence import cpu_affinity
from deployments.florence.cpu_affinity import is_known, name_engine_thread, reserve_cores, restrict

THREADS = """
import os, sys, threading
from deployments.florence.cpu_affinity import name_engine_thread

def begin(run):
    thread = threading.Thread(target=run)
    thread.start()
    return thread

def engine():
    name_engine_thread()
    started.set()
    asked.wait()
    threads["helper"] = begin(shown.wait)
    begun.set()
    shown.wait()

started, asked, begun, shown = (threading.Event() for _ in range(4))
threads = {"other": begin(shown.wait), "engine": begin(engine)}
started.wait()
print("started", flush=True)
sys.stdin.readline()
asked.set()
begun.wait()
threads["late"] = begin(shown.wait)
for name, thread in threads.items():
    print(name, len(os.sched_getaffinity(thread.native_id)))
shown.set()
"""
# A chain of processes, each on the cores of its argument: launcher, raylet, replica.
CHAIN = """
import os, subprocess, sys
from deployments.florence.cpu_affinity import name_engine_thread

cores, *below = sys.argv[1:]
os.sched_setaffinity(0, map(int, cores.split(",")))
if below:
    subprocess.run([*sys.orig_argv[:3], *below], check=True)
else:
    name_engine_thread()
    print(*sorted(os.sched_getaffinity(0)), sep=",")
"""
CORES = sorted(os.sched_getaffinity(0)) if is_known() else []
NUM = len(CORES)
FIRST, EVERY = ",".join(map(str, CORES[:1])), ",".join(map(str, CORES))
pytestmark = pytest.mark.skipif(NUM < 2, reason="needs two cores")


@contextmanager
def running() -> Iterator[subprocess.Popen[str]]:
    """A process with an engine thread and another."""
    command, pipe = [sys.executable, "-c", THREADS], subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "started\n"
        yield started


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """One such process."""
    with running() as started:
        yield started


def cores_by_thread(process: subprocess.Popen[str]) -> dict[str, str]:
    """How many cores each thread may use; two of them begin only now."""
    output, _ = process.communicate("go\n")
    return dict(line.split() for line in output.splitlines())


def test_only_the_engines_threads_keep_their_cores(process: subprocess.Popen[str]) -> None:
    """Other threads, also later ones, lose these cores; the engine's helpers keep them."""
    reserve_cores(1, lambda: [process.pid])

    fewer, every = str(NUM - 1), str(NUM)
    assert cores_by_thread(process) == {
        "other": fewer,
        "late": fewer,
        "engine": every,
        "helper": every,
    }


@pytest.mark.parametrize("num", [0, 10_000])
def test_nothing_changes_where_no_core_can_be_left(
    process: subprocess.Popen[str], num: int
) -> None:
    """No core to leave, or more than there are: all threads use all."""
    reserve_cores(num, lambda: [process.pid])

    assert set(cores_by_thread(process).values()) == {str(NUM)}


def test_a_process_that_has_ended_is_passed_over(process: subprocess.Popen[str]) -> None:
    """Processes end while the others are restricted."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    reserve_cores(1, lambda: [ended.pid, process.pid])

    assert cores_by_thread(process)["other"] == str(NUM - 1)


def test_a_process_that_starts_meanwhile_is_kept_off_as_well(
    process: subprocess.Popen[str],
) -> None:
    """One that was not restricted yet may have started another."""
    with running() as later:
        rounds = chain([[process.pid]] * 2, repeat([process.pid, later.pid]))
        reserve_cores(1, lambda: next(rounds))
        found = [cores_by_thread(each) for each in (process, later)]

    assert [each["other"] for each in found] == [str(NUM - 1)] * 2


def test_without_an_engine_no_core_is_reserved() -> None:
    """It would be idle."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        reserve_cores(1, lambda: [other.pid])

        assert len(os.sched_getaffinity(other.pid)) == NUM
        other.communicate(b"\n")


def test_a_thread_that_becomes_the_engines_meanwhile_keeps_its_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It took its name after it was found among the others."""
    monkeypatch.setattr(cpu_affinity, "is_engine", lambda _: True)
    cores: list[int] = []

    def run() -> None:
        restrict(Path(f"/proc/self/task/{threading.get_native_id()}"), CORES[:1], CORES)
        cores.extend(os.sched_getaffinity(0))

    in_thread(run)

    assert cores == CORES


def test_where_the_system_forbids_it_nothing_happens(
    process: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine runs, and the search for threads ends."""

    def forbid(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbid)
    in_thread(name_engine_thread)
    reserve_cores(1, lambda: [process.pid])

    assert set(cores_by_thread(process).values()) == {str(NUM)}


@pytest.mark.parametrize(
    ("launcher", "expected"), [(EVERY, EVERY), (FIRST, FIRST)], ids=["all cores", "one core"]
)
def test_the_engine_of_a_later_replica_has_the_launchers_cores(
    launcher: str, expected: str
) -> None:
    """It begins on the others' cores and leaves them, but not those that the service was given."""
    command = [sys.executable, "-c", CHAIN, launcher, FIRST, FIRST]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert output.strip() == expected


def in_thread(work: Callable[[], None]) -> None:
    """Do `work` in a thread, which takes its affinity along."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
