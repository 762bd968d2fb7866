"""`florence serve` gets SIGTERM while it works."""

from tests.chaos import sigterm


def test_sigterm_answers_running_requests_and_requeues_jobs() -> None:
    """Runs are answered; jobs are requeued and done later."""
    result = sigterm.perform(haproxy=False)

    assert result.complaints == []
    assert result.counts.raw == {}
    assert sum(result.counts.answers.values()) == sigterm.NUM_RUNS
