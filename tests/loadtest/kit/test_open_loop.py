"""The generator itself, in processes of its own, against a real server that stalls."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.kit import crew, tally
from loadtest.kit.analysis import Analysis
from loadtest.kit.arrivals import Pattern
from loadtest.kit.job import Job, Role
from loadtest.kit.plan import Plan
from loadtest.kit.record import read
from loadtest.kit.scenarios import Bounds
from loadtest.kit.thresholds import judge
from tests.loadtest.kit.server import Server

pytestmark = pytest.mark.slow

RATE, DURATION_S = 40, 5
AFTER_S, STALL_S = 1.5, 1.5
PATIENCE_S = 60


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that stalls as the parameter says."""
    server = Server(AFTER_S, request.param)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield server
    server.shutdown()
    server.server_close()


def plan(server: Server) -> Plan:
    """Runs at a constant rate."""
    given = {"scenario": "steady", "pattern": Pattern.CONSTANT, "num_images": 2}
    return Plan(url=server.url, rate=RATE, duration_s=DURATION_S, **given)


def analysed(file: Path, num: int = RATE * DURATION_S) -> Analysis:
    """What the generator wrote."""
    records, _ = tally.read(file)
    return Analysis(records, num, DURATION_S)


@pytest.mark.parametrize("server", [STALL_S], indirect=True)
def test_a_stalled_server_cannot_hide_the_wait_that_it_causes(
    server: Server, tmp_path: Path
) -> None:
    """Everything that was due in the stall waited for its end, and the percentiles say so.

    A loop that waits for answers would have one slow answer for each client.
    """
    job = Job(role=Role.ALONE, plan=plan(server), out=tmp_path / "r.jsonl")
    crew.drive(job, [], "a-key")
    found = analysed(job.out or tmp_path)

    assert len(found.records) == RATE * DURATION_S  # none was left out while the server stalled
    waited = [record.latency_s for record in found.good if record.latency_s > STALL_S / 2]
    assert len(waited) >= 0.9 * RATE * STALL_S / 2
    assert found.latency.p99 > 0.9 * STALL_S
    assert found.latency.p95 > 0.5 * STALL_S
    assert found.stages()["model"].mean == pytest.approx(0.0035)


@pytest.mark.parametrize("server", [0.0], indirect=True)
def test_a_generator_that_stalls_says_so(server: Server, tmp_path: Path) -> None:
    """Stopped for a while by a signal, it sends what was due late, and misses its threshold."""
    job = Job(role=Role.ALONE, plan=plan(server), out=tmp_path / "r.jsonl")
    with crew.running([job], "a-key") as [process]:
        assert server.begun.wait(PATIENCE_S)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(STALL_S)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(PATIENCE_S) == 0
    found = analysed(job.out or tmp_path)

    assert found.lag.p99 > 0.9 * STALL_S
    assert found.latency.p99 > 0.9 * STALL_S  # its lag is part of the latency
    verdicts = {verdict.title: verdict.word for verdict in judge(found, Bounds())}
    assert verdicts["generator's lag, p99"] == "missed"


@pytest.mark.parametrize("server", [0.0], indirect=True)
def test_workers_share_the_schedule(server: Server, tmp_path: Path) -> None:
    """Two of them make every arrival once, half each."""
    file = tmp_path / "out"
    command = [sys.executable, "-m", "loadtest.kit", "steady", "--url", server.url, "--key", "a"]
    command += ["--rate", str(RATE), "--duration", f"{DURATION_S}s", "--arrivals", "constant"]
    command += ["--processes", "2", "--out", str(file), "--max-lag", "none", "--max-p95", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 3)
    assert done.returncode == 0, done.stderr
    records = read(file / "requests.jsonl")

    assert sorted(r.at_s for r in records) == [n / RATE for n in range(RATE * DURATION_S)]
    assert Counter(r.worker for r in records) == {0: 100, 1: 100}
    assert "# Load test steady: ok" in done.stdout


@pytest.mark.parametrize("server", [STALL_S], indirect=True)
def test_a_missed_threshold_is_exit_code_1(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.kit", "steady", "--url", server.url, "--key", "a"]
    command += ["--rate", "20", "--duration", "4s", "--max-p99", "1ms", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 3)

    assert done.returncode == 1, done.stderr
    assert "| p99 | ≤ 1 ms |" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"run region-proposal"}
