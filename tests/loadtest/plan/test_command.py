"""`python -m loadtest.plan`: a table, a plot, and errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

SHORT = ("--rate", "2", "--duration", "3m", "--burst", "200@1m", "--node-start", "20s")


def command(*arguments: str, code: int = 0) -> str:
    """What it printed until the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.plan", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


pytestmark = pytest.mark.slow  # each starts a process


def test_a_table_is_printed_and_a_plot_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    text = command(*SHORT, "--out", str(file))

    for part in ("waiting, p50, p95", "GPU hours", "changes of direction"):
        assert part in text
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--rate", "-1"], "--rate", 2),
        (["--burst", "many"], "--burst", 2),
        (["--rate", "0"], "no request comes", 1),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], words: str, code: int) -> None:
    assert words in command(*arguments, code=code)


def test_it_needs_no_ray() -> None:
    """Neither Ray nor torch is loaded by a simulation."""
    script = (
        "import sys; sys.argv[1:] = ['--duration', '1m']; "
        "from loadtest.plan.__main__ import main; main(); "
        "print(*(name for name in ('ray', 'torch') if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.stderr.strip() == ""
