"""What was found is shown in a line each, and in the exit code."""

import json

import pytest

from deployments.cli.doctor.check import Check
from deployments.cli.doctor.report import report
from deployments.cli.doctor.verdict import fail, ok, skip, warn

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
    """Aligned, with its remedy, however narrow the terminal; and a tally below."""
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
