"""The command itself: what is wrong is one line and exit code 2, never a traceback."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from deployments.cli import main as cli
from deployments.florence.tasks import TASKS


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `florence` with these words."""
    monkeypatch.setattr(sys, "argv", ["florence", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    printed = capsys.readouterr()
    code = left.value.code
    return code if isinstance(code, int) else 0, printed.out, printed.err


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's own state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("FLORENCE_API_KEY", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["serve", "--set", "inference.batch=3"], "setting inference.batch: Extra inputs"),
        (["serve", "--set", "inference.max_queue=0"], "setting inference.max_queue: Input should"),
        (["serve", "--set", "nonsense"], "--set nonsense: write PATH=VALUE"),
        (["serve", "--set", "a=["], "--set a=[: the value is no YAML"),
        (["serve", "--device", "tpu"], "setting model.device: Input should be 'auto', 'cpu'"),
        (["serve", "--port", "99999"], "cannot listen on 127.0.0.1:99999"),
        (["serve", "--model", "/nowhere"], "no checkpoint folder at /nowhere"),
        (["serve", "--model", "microsoft/Florence-2-base"], "use florence-community/Florence-2"),
        (["predict", "a.png"], "no API key: give one with --key"),
        (["predict", "a.png", "--key", "k", "--task", "dance"], "no task dance: --task takes one"),
        (["predict", "a.png", "--key", "k", "--url", "http://a:b"], "http://a:b is no URL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_setup_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    line: str,
) -> None:
    """Exit code 2, nothing on standard output, and one line that names the remedy."""
    code, out, err = run(monkeypatch, capsys, *words)
    [complaint] = err.splitlines()
    assert (code, out) == (2, "")
    assert complaint.startswith("florence: ")
    assert line in complaint


@pytest.mark.parametrize("words", [["serve"], ["predict", "a.png"]], ids=" ".join)
def test_a_state_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    home: Path,
    words: list[str],
) -> None:
    """Every command that needs the folder names the option to move it."""
    (home / "florence").touch()
    code, out, err = run(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "choose another folder with --state" in err


@pytest.mark.parametrize(
    "words",
    [
        ["dance"],
        ["serve", "--no-such-flag"],
        ["serve", "--port", "many"],
        ["predict"],
        ["demo", "--seed", "x"],
    ],
    ids=" ".join,
)
def test_a_wrong_flag_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Exit code 2, and one line on standard error that says where the help is."""
    code, out, err = run(monkeypatch, capsys, *words)

    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("florence: ")
    assert "--help" in err


@pytest.mark.parametrize("command", ["serve", "predict", "demo"])
def test_every_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """`--help` has a sentence for the command and for each option."""
    code, out, err = run(monkeypatch, capsys, command, "--help")
    assert (code, err) == (0, "")
    assert "--help" in out


def test_without_a_command_there_is_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All three commands are shown."""
    _, out, err = run(monkeypatch, capsys)
    assert all(command in out + err for command in ("serve", "predict", "demo"))


def in_a_process(*words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    command: Sequence[str] = [sys.executable, "-m", "deployments.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_module_is_the_command() -> None:
    """`python -m deployments.cli` behaves as `florence` does, without a traceback."""
    found = in_a_process("predict", "a.png", "--key", "k", "--task", "dance")
    expected = f"florence: no task dance: --task takes one of {', '.join(TASKS)}\n"
    assert (found.returncode, found.stdout, found.stderr) == (2, "", expected)


def test_a_port_in_use_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found out before anything is started."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = run(monkeypatch, capsys, "serve", "--port", port)
    assert code == 2
    [line] = err.splitlines()
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in line
