"""The generator itself, in processes of its own, against a real server that stalls."""

import csv
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.loadtest.server import StallingServer

pytestmark = pytest.mark.slow

RATE, DURATION_S = 40, 5
AFTER_S, STALL_S = 1.5, 1.5
TIMEOUT_S = 180
LENIENT = ("--max-lag", "none", "--max-p95", "none")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[StallingServer]:
    """A server that stalls as the parameter says."""
    server = StallingServer(AFTER_S, request.param)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield server
    server.shutdown()
    server.server_close()


def started(server: StallingServer, out: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The command with a constant rate."""
    command = [sys.executable, "-m", "loadtest", "steady", "--url", server.url, "--key", "a"]
    command += ["--rate", str(RATE), "--duration", f"{DURATION_S}s", "--arrivals", "constant"]
    command += ["--out", str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]", code: int) -> str:
    """What was printed until the exit code."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, out + err
    return out


def figures(out: Path, method: str, name: str) -> dict[str, float]:
    """A row of Locust's table."""
    with (out / "figures_stats.csv").open() as file:
        [row] = [r for r in csv.DictReader(file) if (r["Type"], r["Name"]) == (method, name)]
    return {key: float(value) for key, value in row.items() if key not in ("Type", "Name")}


@pytest.mark.parametrize("server", [STALL_S], indirect=True)
def test_a_stalled_server_cannot_hide_the_wait_that_it_causes(
    server: StallingServer, tmp_path: Path
) -> None:
    """Everything that was due in the stall waited for its end, and the percentiles say so.

    A loop that waits for answers would have one slow answer for each client. The missed
    threshold is exit code 1.
    """
    text = ended(started(server, tmp_path, "--max-lag", "none", "--max-p99", "1ms"), 1)
    runs = figures(tmp_path, "run", "region-proposal")

    assert text.startswith("steady: runs at random times")
    assert "steady: missed p99\n" in text
    assert runs["Request Count"] == RATE * DURATION_S  # none was left out during the stall
    assert runs["Failure Count"] == 0
    assert runs["99%"] > 900 * STALL_S
    assert runs["95%"] > 500 * STALL_S
    assert figures(tmp_path, "stage", "run: model")["Average Response Time"] == pytest.approx(3.5)
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("server", [0.0], indirect=True)
def test_a_generator_that_stalls_says_so(server: StallingServer, tmp_path: Path) -> None:
    """Stopped for a while by a signal, it sends what was due late, and misses its threshold."""
    process = started(server, tmp_path, "--max-p95", "none")
    assert server.begun.wait(TIMEOUT_S)
    [locust] = psutil.Process(process.pid).children()
    locust.send_signal(signal.SIGSTOP)
    time.sleep(STALL_S)
    locust.send_signal(signal.SIGCONT)

    assert "steady: missed generator's lag, p99" in ended(process, 1)
    assert figures(tmp_path, "generator", "lag")["99%"] > 900 * STALL_S
    runs = figures(tmp_path, "run", "region-proposal")
    assert runs["99%"] > 900 * STALL_S  # its lag is part of the latency


@pytest.mark.parametrize("server", [0.0], indirect=True)
def test_workers_share_the_schedule(server: StallingServer, tmp_path: Path) -> None:
    """Two of them make every arrival once."""
    text = ended(started(server, tmp_path, "--processes", "2", *LENIENT), 0)

    assert "steady: ok\ngood answers: 200 of 200" in text
    assert server.num_runs == RATE * DURATION_S
