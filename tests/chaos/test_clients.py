"""The clients of the drills retry as fal's do, and count lost requests."""

from pathlib import Path

import httpx2
import pytest

from tests.chaos.clients import JAVASCRIPT, POLICIES, PYTHON, RetryPolicy
from tests.chaos.counts import LoadCounts
from tests.chaos.drill import DrillResult, write


def answer(status: int, text: str = "", **headers: str) -> httpx2.Response:
    """An answer of the service, or of something in front of it."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, text=text, headers=given)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_overload_is_worth_another_call(policy: RetryPolicy) -> None:
    """To both clients."""
    assert policy.retries(answer(429))


def test_pythons_client_wants_to_hear_of_nginx() -> None:
    """After a 503 it calls again only when nginx has answered, and not the service."""
    assert PYTHON.retries(answer(503, "nginx"))
    assert not PYTHON.retries(answer(503, "unavailable"))
    assert not PYTHON.retries(answer(503, "nginx", x_fal_request_id="1"))
    assert JAVASCRIPT.retries(answer(503, "unavailable", x_fal_request_id="1"))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_an_internal_error_is_not(policy: RetryPolicy) -> None:
    """To neither."""
    assert not policy.retries(answer(500))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_waits_grow_and_have_a_limit(policy: RetryPolicy) -> None:
    """Each is about twice the one before."""
    lowest, highest = policy.jitter
    for attempt in range(1, 12):
        expected_s = min(policy.longest_s, policy.first_s * 2 ** (attempt - 1))
        assert expected_s * lowest <= policy.wait_s(attempt) <= expected_s * highest


def test_a_drill_is_passed_when_no_request_failed_in_the_end() -> None:
    """Single calls may have failed; a complaint fails it too."""
    counts = LoadCounts()
    counts.failed_once("run: ReadError")
    assert DrillResult("x", counts, 1.0).is_passed
    assert not DrillResult("x", counts, 1.0, ["the answers differ"]).is_passed

    counts.failed("run: 500 (Python)")
    assert not DrillResult("x", counts, 1.0).is_passed


def test_the_table_says_what_was_lost(tmp_path: Path) -> None:
    """One row for each drill."""
    counts = LoadCounts(runs=7, queued=5)
    counts.failed_once("run: 500")
    counts.failed_once("run: 500")
    counts.failed("run: 500 (Python)")
    write([DrillResult("the Ingress killed", counts, 2.25)], tmp_path / "drills.md")
    *_, last = (tmp_path / "drills.md").read_text().splitlines()

    assert last.split(" | ")[:5] == [
        "| the Ingress killed",
        "7",
        "5",
        "2 (2 × run: 500)",
        "1 (1 × run: 500 (Python))",
    ]
    assert "FAILED" in last
