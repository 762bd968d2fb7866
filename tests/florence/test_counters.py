"""What the engine has done, in numbers that only grow."""

from deployments.florence.counters import REASONS, Tally


def test_what_was_done_since_is_the_difference() -> None:
    """A copy stays as it was, and every reason is told, also those that did not occur."""
    tally = Tally()
    tally.step(3)
    tally.begin("full")
    before = tally.copied()
    tally.step(8)
    tally.step(1)
    tally.begin("full")
    tally.begin("joined")
    tally.busy_s += 0.5
    since = tally.since(before)
    assert (since.steps, since.rows, since.busy_s) == (2, 9, 0.5)
    assert since.begun == dict.fromkeys(REASONS, 0) | {"full": 1, "joined": 1}
    assert (before.steps, before.rows, dict(before.begun)) == (1, 3, {"full": 1})
