"""`florence serve` is told to stop while it works."""

import pytest

from loadtest.drills import endings

pytestmark = pytest.mark.slow


def test_sigterm_answers_those_inside_and_hands_the_rest_back() -> None:
    """Runs under way end well, queued requests wait as if never begun, and are done later."""
    outcome = endings.perform(haproxy=False)

    assert outcome.complaints == []
    assert outcome.tally.raw == {}
    assert sum(outcome.tally.answers.values()) == endings.NUM_RUNS
