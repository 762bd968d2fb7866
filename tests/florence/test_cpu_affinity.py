"""Which cores the engine and the others use."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from deployments.florence.cpu_affinity import name_engine_thread, reserve_cores

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
NUM = os.cpu_count() or 1
pytestmark = pytest.mark.skipif(NUM < 2, reason="needs two cores")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """A process with an engine thread and another."""
    command, pipe = [sys.executable, "-c", THREADS], subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "started\n"
        yield started


def cores_by_thread(process: subprocess.Popen[str]) -> dict[str, str]:
    """How many cores each thread may use; two of them begin only now."""
    output, _ = process.communicate("go\n")
    return dict(line.split() for line in output.splitlines())


def test_only_the_engines_threads_keep_their_cores(process: subprocess.Popen[str]) -> None:
    """Other threads, also later ones, lose these cores; the engine's helpers keep them."""
    reserve_cores(1, [process.pid])

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
    reserve_cores(num, [process.pid])

    assert set(cores_by_thread(process).values()) == {str(NUM)}


def test_a_process_that_has_ended_is_passed_over() -> None:
    """Processes end while the others are restricted."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    reserve_cores(1, [ended.pid])


def test_an_engine_thread_takes_every_core_again() -> None:
    """A replica that starts later begins on the others' cores, and its engine leaves them."""
    cores: list[int] = []

    def run() -> None:
        os.sched_setaffinity(0, {0})
        name_engine_thread()
        cores.append(len(os.sched_getaffinity(0)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert cores == [NUM]
