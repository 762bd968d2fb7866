"""The Dispatcher with a real store and functions for deployments: from queue to result."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.autoscaling import ONGOING, BacklogReading
from deployments.dispatcher import Dispatcher
from deployments.errors import InternalError, NotReady
from deployments.files.local import LocalFileStore
from deployments.florence.messages import Finished, Request
from deployments.florence.stages import Stages
from deployments.jobs.job import Cancellation, JobOutcome, StoredResponse, Submission
from deployments.pipeline import Handle
from deployments.settings import Settings, parse
from deployments.telemetry.metrics import PrometheusRecorder
from tests.jobs.memory import MemoryStore

pytestmark = pytest.mark.anyio

FINISHED = Finished({"results": "a red circle"}, Stages(), files=("picture.jpg",))


class Bench:
    """A Dispatcher whose deployments are functions; `requests` are those of Preprocess."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 1000.0
        self.store = MemoryStore(settings.queue, lambda: self.now)
        self.requests: list[Request] = []
        self.readings: list[BacklogReading] = []
        self.failures: list[Exception] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def preprocess(self, request: Request) -> str:
        self.requests.append(request)
        if self.failures:
            raise self.failures.pop()
        await self.may_go_on.wait()
        return "prepared"

    async def inference(self, prepared: Any, request: Request) -> str:
        return f"generated from {await prepared}"

    async def postprocess(self, prepared: Any, generated: Any, request: Request) -> Finished:
        assert generated == "generated from prepared"
        return FINISHED

    @asynccontextmanager
    async def dispatching(self) -> AsyncIterator[Dispatcher]:
        """The Dispatcher lives inside the block."""
        dispatcher = Dispatcher(
            self.settings,
            handle(self.preprocess),
            handle(self.inference),
            handle(self.postprocess),
            self.store,
            PrometheusRecorder(),
            self.readings.append,
        )
        try:
            yield dispatcher
        finally:
            await dispatcher.stop()

    async def submit(self) -> None:
        """A job called `a`."""
        await self.store.submit(
            Submission(
                id="a",
                key_id="key",
                path="caption",
                input='{"image_url": "data:,x"}',
                base_url="https://florence.example",
            )
        )

    async def result(self) -> StoredResponse:
        """Its result, once it has one."""
        async with asyncio.timeout(5):
            while True:
                result = await self.store.result("key", "a")
                assert result
                if result.state.is_terminal:
                    return result
                await asyncio.sleep(0.005)


def handle(run: Callable[..., Any]) -> Handle:
    """A deployment that is a function; what it begins can be awaited by several, as in Ray."""

    async def ready() -> bool:
        return True

    return Handle(run=lambda *args: asyncio.ensure_future(run(*args)), ready=ready)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A Dispatcher with folders of its own."""
    return Bench(
        parse(
            {
                "model": {"path": "demo"},
                "files": {"root": str(tmp_path / "files")},
                "webhooks": {"keys": str(tmp_path / "webhooks")},
                "queue": {
                    "beat_s": 0.01,
                    "poll_s": 0.01,
                    "drain_s": 0.05,
                    "retry_delay_s": 0.0,
                },
            }
        )
    )


async def test_a_queued_job_is_done(bench: Bench) -> None:
    """It goes through the three deployments, and its result is stored."""
    await bench.submit()
    async with bench.dispatching():
        result = await bench.result()

    assert [request.id for request in bench.requests] == ["a"]
    assert (result.status, result.body) == (200, '{"results":"a red circle"}')


async def test_a_failed_attempt_is_retried(bench: Bench) -> None:
    """The store counts attempts, so the pipeline makes only one of each."""
    bench.failures = [NotReady(), NotReady()]
    await bench.submit()
    async with bench.dispatching():
        result = await bench.result()

    assert (result.status, len(bench.requests)) == (200, 3)


async def test_a_cancel_reaches_the_pipeline(bench: Bench) -> None:
    """It stops the running attempt."""
    bench.may_go_on.clear()
    await bench.submit()
    async with bench.dispatching():
        async with asyncio.timeout(5):
            while not bench.requests:  # noqa: ASYNC110, it is looked at from outside
                await asyncio.sleep(0.005)
        assert await bench.store.cancel("key", "a") is Cancellation.REQUESTED
        result = await bench.result()

    assert result.status == 499


async def test_the_policies_get_the_backlog(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued jobs and the oldest one's age; running jobs count as the Dispatcher's own load."""
    monkeypatch.setattr("deployments.dispatcher.POLL_INTERVAL_S", 0.01)
    bench.may_go_on.clear()
    async with bench.dispatching() as dispatcher, asyncio.timeout(5):
        while not bench.readings:  # noqa: ASYNC110, it is looked at from outside
            await asyncio.sleep(0.005)
        assert bench.readings[-1] == BacklogReading(0, 0.0)
        monkeypatch.setattr(bench.store, "claim", nothing)
        await bench.submit()
        bench.now += 7
        while bench.readings[-1] != BacklogReading(1, 7.0):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert dispatcher.record_autoscaling_stats() == {ONGOING: 0}
        monkeypatch.undo()
        while dispatcher.record_autoscaling_stats() != {ONGOING: 1}:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        bench.may_go_on.set()


async def nothing(*args: Any) -> list[Any]:
    """A claim that gets nothing."""
    return []


async def test_files_of_expired_jobs_are_removed(bench: Bench) -> None:
    """A job's files are deleted with it."""
    files = LocalFileStore(bench.settings.files)
    stored = files.put(b"picture", "image/jpeg")
    await bench.submit()
    [claimed] = await bench.store.claim("other", 1, 10)
    await bench.store.finish(claimed.lease, JobOutcome.done({}, files=(stored.name, "gone.jpg")))
    bench.now += 4000
    async with bench.dispatching(), asyncio.timeout(5):
        while files.find(stored.name):  # noqa: ASYNC110, it is looked at from outside
            await asyncio.sleep(0.005)


async def test_a_failed_task_is_bad_health(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve replaces a replica that no longer does its work."""

    async def broken(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("deployments.dispatcher.MAINTENANCE_INTERVAL_S", 0.01)
    async with bench.dispatching() as dispatcher:
        dispatcher.check_health()
        monkeypatch.setattr(bench.store, "rescue", broken)
        await asyncio.wait({dispatcher.tasks["rescue"]}, timeout=5)
        with pytest.raises(InternalError, match="rescue"):
            dispatcher.check_health()
