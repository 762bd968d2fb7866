"""The command itself: what is wrong is one line and exit code 2, never a traceback."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from deployments import __version__
from deployments.cli.main import COMMANDS, load
from deployments.florence.tasks import TASKS
from tests.cli.conftest import Florence


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["serve", "--set", "inference.batch=3"],
            "setting inference.batch: there is none of this",
        ),
        (["serve", "--set", "inference.max_queue=0"], "setting inference.max_queue: it should be"),
        (["serve", "--set", "nonsense"], "--set nonsense: write PATH=VALUE"),
        (["serve", "--set", "a=["], "--set a=[: the value is no YAML"),
        (["serve", "--device", "tpu"], "setting model.device: it should be 'auto', 'cpu'"),
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
    florence: Florence,
    words: list[str],
    line: str,
) -> None:
    """Exit code 2, nothing on standard output, and one line that names the remedy."""
    left = florence(*words)
    [complaint] = left.err.splitlines()
    assert (left.code, left.out) == (2, "")
    assert complaint.startswith("florence: ")
    assert line in complaint


def test_a_state_that_cannot_be_written_is_one_line(florence: Florence, tmp_path: Path) -> None:
    """The command that needs the folder names the option to move it."""
    (tmp_path / "florence").touch()
    left = florence("serve")
    assert (left.code, left.out) == (2, "")
    assert left.err.count("\n") == 1
    assert "choose another folder with --state" in left.err


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
def test_a_wrong_flag_is_one_line(florence: Florence, words: list[str]) -> None:
    """Exit code 2, and one line on standard error that says where the help is."""
    left = florence(*words)

    assert (left.code, left.out) == (2, "")
    assert len(left.err.strip().splitlines()) == 1
    assert left.err.startswith("florence: ")
    assert "--help" in left.err


def test_the_help_lists_the_commands_and_imports_none() -> None:
    """`--help` answers at once: no command, and nothing large, is imported for it."""
    script = (
        "import sys; sys.argv = ['florence', '--help']; from deployments.cli.main import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stderr.split())
    heavy = {"ray", "torch", "numpy", "pydantic", "httpx2", "cryptography", "PIL", "yaml", "rich"}
    assert loaded & heavy == set()
    ours = {"", ".errors", ".local", ".local.signals", ".cli", ".cli.main"}
    assert {name for name in loaded if name.startswith("deployments")} == {
        f"deployments{name}" for name in ours
    }
    listed = dict(
        line.strip().split(maxsplit=1) for line in done.stdout.splitlines()[-len(COMMANDS) :]
    )
    assert listed == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """It begins with the summary of the list; each option and argument has a help text."""
    command = load(name)
    assert command.help.partition("\n")[0] == COMMANDS[name]
    each = getattr(command, "commands", {name: command}).values()
    assert all(one.help for one in each)
    assert [p.name for one in each for p in one.params if not p.help] == []


def test_without_a_command_there_is_help(
    florence: Florence,
) -> None:
    """The exit code is 2, as for any wrong call."""
    left = florence()
    assert left.code == 2
    assert all(summary in left.out + left.err for summary in COMMANDS.values())


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
    florence: Florence,
) -> None:
    """It is found out before anything is started."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        left = florence("serve", "--port", port)
    assert left.code == 2
    [line] = left.err.splitlines()
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in line


def test_the_version_is_said(florence: Florence) -> None:
    """Alone on a line."""
    assert florence("--version").out == f"florence {__version__}\n"
