"""The load test against the running service: every endpoint, and webhooks that come back."""

import csv
import subprocess
import sys
from pathlib import Path

from deployments.florence.tasks import TASKS
from tests.acceptance.caller import Caller

TIMEOUT_S = 300
LENIENT = ["--max-lag", "none", "--max-p95", "none"]  # the test measures nothing
Rows = dict[tuple[str, str], dict[str, str]]


def loaded(caller: Caller, folder: Path, *arguments: str) -> Rows:
    """Run a load test that meets its thresholds; Locust's rows by type and name."""
    command = [sys.executable, "-m", "loadtest", *arguments, *LENIENT, "--out", str(folder)]
    command += ["--url", caller.url, "--key", caller.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "figures_stats.csv").open() as file:
        return {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}


def test_smoke_calls_every_endpoint_in_both_ways(caller: Caller, tmp_path: Path) -> None:
    """Each answer is good, and says where its time went."""
    rows = loaded(caller, tmp_path, "smoke")
    calls = {(verb, task) for verb in ("run", "queue") for task in TASKS}

    assert {key for key in rows if key[0] in ("run", "queue")} == calls
    assert rows["", "Aggregated"]["Request Count"] == "32"
    for verb in ("run", "queue"):
        model = rows["stage", f"{verb}: model"]
        assert int(model["Request Count"]) >= len(TASKS)
        assert float(model["Average Response Time"]) > 0


def test_every_webhook_of_a_storm_arrives_and_is_genuine(
    caller: Caller, storm_address: str, tmp_path: Path
) -> None:
    """A missing or a forged one would be a failed arrival."""
    arguments = ("webhooks", "--rate", "10", "--duration", "1s", "--arrivals", "constant")
    rows = loaded(caller, tmp_path, *arguments, "--receiver", storm_address)

    webhooks = rows["webhook", "region-proposal"]
    assert (webhooks["Request Count"], webhooks["Failure Count"]) == ("10", "0")
    assert float(rows["stage", "webhook: model"]["Average Response Time"]) > 0


def test_polls_of_queued_requests_are_answered(caller: Caller, tmp_path: Path) -> None:
    """Forty-nine for each request that is submitted."""
    rows = loaded(caller, tmp_path, "polling", "--rate", "50", "--duration", "2s")
    polls = int(rows["status", "region-proposal"]["Request Count"])

    assert polls >= 0.9 * int(rows["", "Aggregated"]["Request Count"]) > 0
