"""The server's own account of where the time went."""

import pytest

from deployments.api.responses import queue_status
from deployments.api.runs import timing
from deployments.florence.stages import Stages
from deployments.jobs.job import JobState, JobStatus
from deployments.jobs.job_log import COMPLETED, RECEIVED, entry, started
from loadtest import stages


def test_the_header_of_a_run_is_read_as_the_service_writes_it() -> None:
    """With the service's own writer, so that neither can change alone."""
    given = Stages(fetch_s=0.1, decode_s=0.02, queue_wait_s=0.3, model_s=0.4, postprocess_s=0.005)

    assert stages.of_run(timing(given)) == {
        "fetch": 0.1,
        "decode": 0.02,
        "queue": 0.3,
        "model": 0.4,
        "postprocess": 0.005,
    }


@pytest.mark.parametrize("header", [None, "", "cache;desc=hit"])
def test_a_header_without_times_has_no_stages(header: str | None) -> None:
    assert stages.of_run(header) == {}


def queued(*moments: float, attempts: int = 1) -> JobStatus:
    """A request that was received, started so many times and completed at these moments."""
    lines = [RECEIVED, *(started(number + 1) for number in range(attempts)), COMPLETED]
    logs = tuple(entry(line, at) for line, at in zip(lines, moments, strict=True))
    return JobStatus(id="an-id", path="", state=JobState.DONE, logs=logs, inference_s=0.2)


def test_a_queued_request_is_split_by_its_log() -> None:
    """From the status as the service writes it."""
    status = queued(100.0, 101.5, 102.0)
    shown = queue_status(status, status.logs, "http://x").model_dump()

    assert stages.of_queued(shown) == pytest.approx(
        {"queued": 1.5, "model": 0.2, "other deployments": 0.3}
    )


def test_a_request_that_was_begun_twice_was_queued_until_the_second_time() -> None:
    status = queued(100.0, 101.0, 104.0, 105.0, attempts=2)
    shown = queue_status(status, status.logs, "http://x").model_dump()

    assert stages.of_queued(shown)["queued"] == pytest.approx(4)


def test_a_status_without_a_log_has_no_stages() -> None:
    assert stages.of_queued({"status": "COMPLETED", "metrics": {}}) == {}
