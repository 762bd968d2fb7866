"""The load-test kit against the running service: every endpoint, and webhooks that come back."""

import subprocess
import sys
from pathlib import Path

from loadtest.kit.record import Outcome, Record, read
from tests.acceptance.caller import Caller

PATIENCE_S = 300
LENIENT = ["--max-lag", "none", "--max-p95", "none"]  # this is no measurement


def loaded(caller: Caller, folder: Path, *arguments: str) -> list[Record]:
    """What the kit recorded; its thresholds were kept."""
    command = [sys.executable, "-m", "loadtest.kit", *arguments, *LENIENT, "--out", str(folder)]
    command += ["--url", caller.url, "--key", caller.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<svg" in (folder / "report.html").read_text()
    assert (folder / "summary.md").read_text() in done.stdout
    return read(folder / "requests.jsonl")


def test_smoke_calls_every_endpoint_in_both_ways(caller: Caller, tmp_path: Path) -> None:
    """Each answer is good, and says where its time went."""
    records = loaded(caller, tmp_path, "smoke")

    tasks = ("region-proposal", "object-detection", "dense-region-caption", "caption")
    assert {r.kind for r in records} == {f"{v} {task}" for v in ("run", "queue") for task in tasks}
    assert len(records) == 16
    for record in records:
        assert record.outcome is Outcome.OK
        assert record.stages["model"] > 0
        assert sum(record.stages.values()) <= record.latency_s


def test_every_webhook_of_a_storm_arrives_and_is_genuine(
    caller: Caller, storm_address: str, tmp_path: Path
) -> None:
    """A missing or a forged one would be a failed arrival."""
    arguments = ("webhooks", "--rate", "5", "--duration", "4s", "--arrivals", "constant")
    records = loaded(caller, tmp_path, *arguments, "--receiver", storm_address)

    assert [record.outcome for record in records] == [Outcome.OK] * 20
    assert len({record.request_id for record in records}) == 20
    assert all(record.stages["model"] > 0 for record in records)


def test_polls_of_queued_requests_are_answered(caller: Caller, tmp_path: Path) -> None:
    """Forty-nine for each request that is submitted beside them."""
    records = loaded(caller, tmp_path, "polling", "--rate", "25", "--duration", "4s")
    polls = [record for record in records if record.kind == "status"]

    assert len(polls) >= 0.9 * len(records) > 0
    assert {record.status for record in polls} <= {200, 202}
