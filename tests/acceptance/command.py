"""The command `florence` as a user types it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

FLORENCE = [sys.executable, "-m", "deployments.cli"]
RUN_S = 180
START_S = 120
STOP_S = 60


def florence(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [*FLORENCE, *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=os.environ | {"COLUMNS": "200"} | environment,
    )


@dataclass(frozen=True)
class Serving:
    """`florence serve`, and what it printed when it was ready."""

    process: psutil.Process
    printed: str

    @property
    def url(self) -> str:
        """The address that it has printed."""
        return str(re.findall(r"Base URL  (\S+)", self.printed)[0])

    @property
    def key(self) -> str:
        """The key that it has printed."""
        return str(re.findall(r"API key   (\S+)", self.printed)[0])


@contextmanager
def serving(log: Path, *arguments: str, **environment: str) -> Iterator[Serving]:
    """`florence serve` until the end of the block, or until the block itself has stopped it."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [*FLORENCE, "serve", "--port", "0", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while "fal-client" not in (text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        yield Serving(psutil.Process(process.pid), log.read_text())
    finally:
        interrupt(process.pid)
        assert process.wait(STOP_S) == 0


def interrupt(leader: int, number: signal.Signals = signal.SIGINT) -> None:
    """Signal a whole process group, as a terminal, `timeout` and many supervisors do."""
    with suppress(ProcessLookupError):
        os.killpg(leader, number)
