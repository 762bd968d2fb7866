"""The fenced blocks of a page, run as they are printed, but for the address and the key."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN_S = 120


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page (a path in the repository) in one language, in their order."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """`text` with each `(printed, actual)` of `changes`. What is not printed is an error."""
    for printed, actual in changes:
        assert printed in text, f"{printed} is not in {text}"
        text = text.replace(printed, actual)
    return text


def run_shell(script: str, environment: Mapping[str, str], folder: Path = ROOT) -> str:
    """Run `script` with sh in `folder`, up to its first failure; what it printed."""
    return run_command(["sh", "-e", "-c", script], environment, folder)


def run_command(command: list[str], environment: Mapping[str, str], folder: Path = ROOT) -> str:
    """Run `command` in `folder`; what it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
