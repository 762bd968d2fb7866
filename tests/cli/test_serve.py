"""`florence serve`: what it needs is checked before anything is started."""

import asyncio
from pathlib import Path

import pytest

from deployments.jobs.sqlite import SqliteStore
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


def test_a_queue_in_use_is_one_line(florence: Florence, tmp_path: Path) -> None:
    """Two services on one file would be two owners."""
    store = SqliteStore.open(tmp_path / "queue.db", QueueSettings(), is_owner=True)
    left = florence("serve", "--port", "0", "--store", f"sqlite:///{tmp_path / 'queue.db'}")
    asyncio.run(store.close())
    [complaint] = left.err.splitlines()
    assert left.code == 2
    assert "another service has it open" in complaint
