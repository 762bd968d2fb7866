"""Checks end in time, break neither each other nor the command, and are a line each."""

import json
import threading
from collections.abc import Callable

import pytest

from deployments.cli.doctor.check import (
    Check,
    CheckFailed,
    Finding,
    Level,
    fail,
    ok,
    report,
    run_checks,
    skip,
    warn,
)
from deployments.errors import SetupError


def found_by(*checks: Check) -> list[tuple[str, Level, str]]:
    """What comes of them."""
    return [(name, each.level, each.said) for name, each in run_checks(checks)]


def raising(error: Exception) -> Callable[[], Finding]:
    """A check that goes wrong."""

    def run() -> Finding:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "finding"),
    [
        (SetupError("no model: give one\nat once"), fail("no model: give one at once")),
        (CheckFailed("no answer", "start it"), fail("no answer", "start it")),
        (ValueError("a\n b"), fail("ValueError: a b", "see whether that can be read")),
    ],
    ids=["setup", "failed", "unexpected"],
)
def test_an_error_is_a_failure_in_one_line(error: Exception, finding: Finding) -> None:
    """Never a traceback."""
    [(_, found)] = run_checks([Check("a", raising(error))])
    assert found == finding


def test_a_check_that_hangs_is_given_up() -> None:
    """And those after it are made."""
    never = threading.Event()
    hanging = Check("a", lambda: ok(str(never.wait())), limit_s=0.05)
    assert found_by(hanging, Check("b", lambda: ok("fine"))) == [
        ("a", Level.FAIL, "no answer within 0.05 s"),
        ("b", Level.OK, "fine"),
    ]
    never.set()


def test_a_check_after_a_failure_is_skipped() -> None:
    """A warning is no failure."""
    checks = (
        Check("a", lambda: fail("gone", "bring it")),
        Check("b", lambda: warn("slow", "wait")),
        Check("c", raising(AssertionError()), after="a"),
        Check("d", lambda: ok("fine"), after="b"),
    )
    assert found_by(*checks)[2:] == [
        ("c", Level.SKIP, "unknown, because a failed"),
        ("d", Level.OK, "fine"),
    ]


GOOD = (
    Check("store", lambda: ok("answers [bold]fast[/bold]")),
    Check("webhook-keys", lambda: warn("one alone", "add another")),
    Check("gpu", lambda: skip("none")),
)
BAD = Check("files", lambda: fail("no room " + "at all " * 40, "make room"))


@pytest.mark.parametrize("as_json", [False, True])
def test_only_a_failure_is_one_in_the_exit_code(as_json: bool) -> None:
    """A warning is not; a failure is, wherever it stands."""
    assert report(GOOD, as_json) == 0
    assert report((BAD, *GOOD), as_json) == 1
    assert report((*GOOD, BAD), as_json) == 1


def test_a_check_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aligned, with its remedy, however narrow the terminal; and a total below."""
    monkeypatch.setenv("COLUMNS", "40")
    report((*GOOD, BAD), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "✓ ok    store         answers [bold]fast[/bold]",
        "! warn  webhook-keys  one alone → add another",
        "– skip  gpu           none",
        f"✗ fail  files         no room {'at all ' * 40} → make room",
        "1 ok, 1 warn, 1 fail, 1 skip",
    ]


def test_a_program_reads_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each check, and nothing else."""
    report(GOOD[:2], as_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"check": "store", "verdict": "ok", "said": "answers [bold]fast[/bold]", "remedy": None},
        {
            "check": "webhook-keys",
            "verdict": "warn",
            "said": "one alone",
            "remedy": "add another",
        },
    ]
