"""Checks end in time, and break neither each other nor the command."""

import threading
from collections.abc import Callable

import pytest

from deployments.cli.doctor.check import Check, findings
from deployments.cli.doctor.verdict import Failed, Kind, Verdict, fail, ok, warn
from deployments.errors import SetupError


def told(*checks: Check) -> list[tuple[str, Kind, str]]:
    """What comes of them."""
    return [(each.check, each.verdict.kind, each.verdict.said) for each in findings(checks)]


def raising(error: Exception) -> Callable[[], Verdict]:
    """A look that goes wrong."""

    def look() -> Verdict:
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (SetupError("no model: give one\nat once"), fail("no model: give one at once")),
        (Failed("no answer", "start it"), fail("no answer", "start it")),
        (ValueError("a\n b"), fail("ValueError: a b", "see whether that can be read")),
    ],
    ids=["setup", "failed", "unexpected"],
)
def test_an_error_is_a_failure_in_one_line(error: Exception, verdict: Verdict) -> None:
    """Never a traceback."""
    [found] = findings([Check("a", raising(error))])
    assert found.verdict == verdict
    assert found.failed


def test_a_check_that_hangs_is_given_up() -> None:
    """And those after it are made."""
    never = threading.Event()
    hanging = Check("a", lambda: ok(str(never.wait())), limit_s=0.05)
    assert told(hanging, Check("b", lambda: ok("fine"))) == [
        ("a", Kind.FAIL, "no answer within 0.05 s"),
        ("b", Kind.OK, "fine"),
    ]
    never.set()


def test_what_rests_on_a_failure_is_not_looked_at() -> None:
    """A warning is none."""
    checks = (
        Check("a", lambda: fail("gone", "bring it")),
        Check("b", lambda: warn("slow", "wait")),
        Check("c", raising(AssertionError()), after="a"),
        Check("d", lambda: ok("fine"), after="b"),
    )
    assert told(*checks)[2:] == [
        ("c", Kind.SKIP, "not to be known after a"),
        ("d", Kind.OK, "fine"),
    ]
