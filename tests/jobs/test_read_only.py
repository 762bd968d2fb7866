"""Reading beside the owner: at once what the owner has committed, and never in its way."""

from pathlib import Path

import pytest

from deployments.jobs.job import Cancellation, JobState, Submission
from deployments.jobs.sqlite import SqliteStore
from deployments.jobs.sqlite.read_only import Beside
from deployments.settings import QueueSettings

pytestmark = pytest.mark.anyio

RULES = QueueSettings()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def submission(name: str) -> Submission:
    """A request of one key."""
    return Submission(id=name, key_id="key", path="caption", input="{}")


async def test_what_was_acknowledged_is_seen(tmp_path: Path) -> None:
    """Each commit, in the moment after it."""
    file = tmp_path / "queue.db"
    store = SqliteStore.open(file, RULES, is_owner=True)
    beside = Beside(file, RULES)
    for number in range(50):
        name = f"r{number}"
        await store.submit(submission(name))
        assert beside.read("position", name) == (True, number)
        assert beside.read("status", "key", name) == (True, await store.status("key", name))
    assert await store.cancel("key", "r0") is Cancellation.REQUESTED
    could_be_read, result = beside.read("result", "key", "r0")

    assert could_be_read
    assert result.state is JobState.CANCELLED
    assert beside.read("status", "other", "r1") == (True, None)
    await store.close()


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """The owner makes it; until then it is the owner's business."""
    file = tmp_path / "queue.db"
    beside = Beside(file, RULES)
    assert beside.read("status", "key", "a") == (False, None)
    assert not file.exists()

    store = SqliteStore.open(file, RULES, is_owner=True)
    await store.submit(submission("a"))
    could_be_read, status = beside.read("status", "key", "a")
    await store.close()

    assert could_be_read
    assert status.id == "a"


async def test_an_owner_that_comes_back_is_seen(tmp_path: Path) -> None:
    """The same reader reads on, whoever writes."""
    file = tmp_path / "queue.db"
    beside = Beside(file, RULES)
    for name in ("first", "second"):
        store = SqliteStore.open(file, RULES, is_owner=True)
        await store.submit(submission(name))
        could_be_read, status = beside.read("status", "key", name)
        await store.close()
        assert could_be_read
        assert status.id == name


def test_it_changes_nothing(tmp_path: Path) -> None:
    """Not even when it is told to."""
    file = tmp_path / "queue.db"
    SqliteStore.open(file, RULES)
    assert Beside(file, RULES).read("submit", submission("a")) == (False, None)
