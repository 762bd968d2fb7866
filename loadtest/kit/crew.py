"""Starts the generator's processes on this machine, and waits for them.

What they cannot do they say themselves, in a line on standard error.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from loadtest.kit.job import Job
from loadtest.kit.plan import KEY

ENDING_S = 60.0


class NotDriven(Exception):
    """A generator ended early, and has said why."""


def drive(first: Job, workers: Sequence[Job], key: str) -> None:
    """Run `first` to its end beside its workers; it writes the records.

    Raises:
        NotDriven: it ended early.
    """
    with running([*workers, first], key) as processes:
        if processes[-1].wait():
            raise NotDriven


@contextmanager
def running(jobs: Sequence[Job], key: str) -> Iterator[list["subprocess.Popen[str]"]]:
    """The processes of these jobs; after the block they have ended."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for job in jobs:
            processes.append(started(job, key))
        yield processes
        for process in processes:
            process.wait(ENDING_S)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(ENDING_S)


def started(job: Job, key: str) -> "subprocess.Popen[str]":
    """A process that has been told its job."""
    command = [sys.executable, "-m", "loadtest.kit.generator"]
    environment = os.environ | {KEY: key}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True)
    assert process.stdin
    process.stdin.write(job.model_dump_json())
    process.stdin.close()
    return process
