"""`florence serve`: what it needs is checked before anything is started."""

import asyncio
import json
from pathlib import Path

import pytest

from deployments.cli.serve import welcome
from deployments.florence.checkpoint import DEMO_MARK
from deployments.florence.identity import DEMO_NOTE
from deployments.jobs.sqlite import SqliteStore
from deployments.local.config import local_profile
from deployments.local.state import StateFolder
from deployments.settings import QueueSettings
from tests.cli.conftest import Florence

WRONG = {
    "empty model folder": (["--model", "."], "no checkpoint of Florence-2"),
    "no GPU": (["--device", "cuda"], "CUDA"),
    "no database": (["--store", "postgresql://127.0.0.1:1/florence"], "postgresql"),
    "unknown store": (["--store", "mysql://127.0.0.1/florence"], "store.url"),
    "unwritable queue": (["--store", "sqlite:////proc/queue.db"], "/proc/queue.db"),
    "two queues": (["--store", "sqlite:///queue.db", "--ephemeral"], "--ephemeral"),
    "no such bucket scheme": (["--files", "ftp://bucket"], "files.root"),
    "not our address": (["--host", "192.0.2.1"], "--host"),
    "unwritable state": (["--state", "/proc/florence"], "--state"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setup_is_one_line(florence: Florence, name: str) -> None:
    """What is wrong and what to do, and exit code 2."""
    words, line = WRONG[name]
    left = florence("serve", "--port", "0", *words)
    [complaint] = left.err.splitlines()
    assert (left.code, left.out) == (2, "")
    assert line in complaint


@pytest.mark.parametrize(("path", "is_demo"), [("demo", True), ("copy", True), ("other", False)])
def test_the_banner_says_what_the_demo_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, is_demo: bool
) -> None:
    """By the checkpoint's own mark: in a second line for the demo and its copies, else nowhere."""
    monkeypatch.chdir(tmp_path)
    if path != "demo":
        config = {"model_type": "florence2", DEMO_MARK: is_demo}
        Path(path).mkdir()
        Path(path, "config.json").write_text(json.dumps(config))
    state = StateFolder(tmp_path / "state")
    profile = local_profile(state, "127.0.0.1", 8000, {"model": {"path": path}})
    ready, second, *lines = welcome(profile, state).splitlines()
    assert ready == f"Florence Serve is ready: {path} on cpu. Ctrl-C stops it."
    assert second == (DEMO_NOTE if is_demo else "")
    assert DEMO_NOTE not in lines
    assert f"  Page      http://127.0.0.1:8000/#key={state.api_key()}" in lines


def test_a_queue_in_use_is_one_line(florence: Florence, tmp_path: Path) -> None:
    """Two services on one file would be two owners."""
    store = SqliteStore.open(tmp_path / "queue.db", QueueSettings(), is_owner=True)
    left = florence("serve", "--port", "0", "--store", f"sqlite:///{tmp_path / 'queue.db'}")
    asyncio.run(store.close())
    [complaint] = left.err.splitlines()
    assert left.code == 2
    assert "another service has it open" in complaint
