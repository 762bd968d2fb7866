"""The command in this process, with a home of its own."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.cli import main as cli
from deployments.cli.options import run_with_store
from deployments.jobs.access import Access
from deployments.jobs.store import Store


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Florence = Callable[..., Outcome]


@pytest.fixture
def florence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Florence:
    """Runs `florence` with some words on a wide terminal; its state is in the test's folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FLORENCE_API_KEY", raising=False)
    monkeypatch.delenv("FLORENCE_STORE", raising=False)

    def call(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["florence", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return Outcome(int(left.value.code or 0), printed.out, printed.err)

    return call


def made_store(file: Path) -> str:
    """The URL of an empty store in a new file."""
    url = f"sqlite:///{file}"

    run_with_store(url, Store.now, Access.MIGRATE)
    return url
