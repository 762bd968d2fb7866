"""The SQLite store in its owner actor: shared by all, and restored after the owner's death."""

import asyncio

import pytest
import ray

from deployments.errors import QueueFull
from deployments.jobs.job import Submission
from deployments.jobs.sqlite.owner_actor import NAME, NAMESPACE, owner_client
from deployments.jobs.store import Store
from deployments.settings import QueueSettings, StoreSettings
from tests.acceptance.caller import Caller

pytestmark = pytest.mark.anyio

KEY = "owner-test"


@pytest.fixture
async def store(caller: Caller) -> Store:
    """The store of the running service."""
    return owner_client(StoreSettings(), QueueSettings(), retry_s=0)


def submission(name: str, max_queue_length: int | None = None) -> Submission:
    """A job that fails in every worker: it has no image."""
    return Submission(
        id=name, key_id=KEY, path="caption", input="{}", max_queue_length=max_queue_length
    )


async def test_answers_find_their_callers(store: Store) -> None:
    """Calls that travel together each get their own answer, or their own error."""
    await store.submit(submission("first"))
    answers = await asyncio.gather(
        store.status(KEY, "first"),
        store.submit(submission("second", max_queue_length=0)),
        store.status(KEY, "unknown"),
        return_exceptions=True,
    )

    status, full, missing = answers
    assert getattr(status, "id", None) == "first"
    assert isinstance(full, QueueFull)
    assert missing is None


async def test_an_owner_that_dies_loses_nothing(store: Store) -> None:
    """Every acknowledged submit survives; callers only wait a little."""
    names = [f"kept-{number}" for number in range(300)]
    owner = ray.get_actor(NAME, namespace=NAMESPACE)

    async def submit(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await store.submit(submission(name))
        await store.cancel(KEY, name)

    async def kill() -> None:
        await asyncio.sleep(0.3)
        ray.kill(owner, no_restart=False)

    await asyncio.gather(kill(), *(submit(name, 0.002 * n) for n, name in enumerate(names)))
    found = await asyncio.gather(*(store.status(KEY, name) for name in names))

    assert [status.id if status else None for status in found] == names
