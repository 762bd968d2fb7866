"""The Dispatcher with a real store and functions for boxes: from the queue to the result."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.autoscaling import ONGOING, BacklogReading
from deployments.dispatcher import Dispatcher
from deployments.errors import InternalError, NotReady
from deployments.files.local import LocalFileStore
from deployments.florence.request import Finished, Request
from deployments.florence.stages import Stages
from deployments.jobs.job import Cancellation, JobOutcome, StoredResponse, Submission
from deployments.jobs.memory import MemoryStore
from deployments.pipeline import Handle
from deployments.settings import Settings, TracingSettings, parse
from deployments.telemetry.metrics import PrometheusRecorder
from tests.lines import Lines, logging_lines
from tests.telemetry.spans import spans_in

pytestmark = pytest.mark.anyio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

STAGES = Stages(
    fetch_s=0.5,
    decode_s=0.25,
    queue_wait_s=0.125,
    model_s=2.0,
    postprocess_s=1.0,
    batch_size=4,
    num_tokens=12,
    source_bytes=34567,
    width=320,
    height=240,
)
FINISHED = Finished({"results": "a red circle"}, STAGES, files=("picture.jpg",))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Bench:
    """A Dispatcher whose deployments are functions; `runs` are those that reached the first."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 1000.0
        self.store = MemoryStore(settings.queue, lambda: self.now)
        self.runs: list[Request] = []
        self.readings: list[BacklogReading] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def preprocess(self, run: Request) -> str:
        self.runs.append(run)
        if self.failures:
            raise self.failures.pop()
        await self.gate.wait()
        return "prepared"

    async def inference(self, prepared: Any, run: Request) -> str:
        return f"generated from {await prepared}"

    async def postprocess(self, prepared: Any, generated: Any, run: Request) -> Finished:
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

    async def submit(self, given: str = '{"image_url": "data:,x"}', **more: Any) -> None:
        """A request called `a`."""
        await self.store.submit(
            Submission(
                id="a",
                key_id="key",
                path="caption",
                input=given,
                base_url="https://florence.example",
                **more,
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
                "queue": {"beat_s": 0.01, "poll_s": 0.01, "drain_s": 0.05},
            }
        )
    )


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged in a test."""
    with logging_lines() as kept:
        yield kept


async def test_a_queued_request_is_run(bench: Bench) -> None:
    """What was submitted goes through the pipeline, and its answer is there to be fetched."""
    await bench.submit(priority=1, files_ttl_s=60.0)
    async with bench.dispatching():
        result = await bench.result()

    [run] = bench.runs
    assert (run.id, run.task, run.input.image_url) == ("a", "caption", "data:,x")
    assert (run.base_url, run.priority, run.files_ttl_s) == ("https://florence.example", 1, 60.0)
    assert run.picture_key == ""  # a result that is kept names only what is stored
    assert (result.status, result.body) == (200, '{"results":"a red circle"}')


@pytest.mark.parametrize(("given", "num_beams"), [('"num_beams": 1, ', 1), ("", None)])
async def test_a_queued_request_has_its_beams(
    bench: Bench, given: str, num_beams: int | None
) -> None:
    """What the input asks for reaches the run."""
    await bench.submit(f'{{{given}"image_url": "u"}}')
    async with bench.dispatching():
        await bench.result()

    assert [run.input.num_beams for run in bench.runs] == [num_beams]


async def test_the_log_tells_the_story(bench: Bench) -> None:
    """Every stage with its numbers, in order, and the time that the model took."""
    await bench.submit()
    async with bench.dispatching():
        await bench.result()
    status = await bench.store.status("key", "a")

    assert status
    assert status.inference_s == 2.0
    assert [entry.message for entry in status.logs][-6:-1] == [
        "Fetched 34567 bytes in 500 ms",
        "Decoded 320 x 240 pixels in 250 ms",
        "Batched with 3 others after 125 ms",
        "Generated 12 tokens in 2000 ms",
        "Stored the answer in 1000 ms",
    ]


async def test_a_cancel_reaches_the_pipeline(bench: Bench) -> None:
    """Running work is stopped."""
    bench.gate.clear()
    await bench.submit()
    async with bench.dispatching():
        async with asyncio.timeout(5):
            while not bench.runs:  # noqa: ASYNC110, it is looked at from outside
                await asyncio.sleep(0.005)
        assert await bench.store.cancel("key", "a") is Cancellation.REQUESTED
        result = await bench.result()

    assert result.status == 499


async def test_the_policies_hear_what_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many, and for how long; what is worked on is no longer counted there, but here."""
    monkeypatch.setattr("deployments.dispatcher.POLL_INTERVAL_S", 0.01)
    bench.gate.clear()
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
        bench.gate.set()


async def nothing(*args: Any) -> list[Any]:
    """A claim that gets nothing."""
    return []


async def test_an_attempt_is_told(bench: Bench, lines: Lines) -> None:
    """One line with the request's id, its key, and where the time went, also in the queue."""
    await bench.submit()
    bench.now += 3.0
    async with bench.dispatching():
        await bench.result()
    [line] = lines.about("execute")
    told = {"request_id": "a", "key_id": "key", "endpoint": "caption", "status": 200}
    told |= {"attempt": 1, "waited_ms": 3000.0, "fetch_ms": 500.0, "decode_ms": 250.0}
    told |= {"queue_wait_ms": 125.0, "model_ms": 2000.0, "postprocess_ms": 1000.0}
    told |= {"batch_size": 4, "tokens": 12}
    assert told.items() <= line.items()
    assert line["total_ms"] > 0


async def test_each_attempt_is_told(bench: Bench, lines: Lines) -> None:
    """One that failed with what a client would see, and one that was broken off."""
    bench.failures = [NotReady(), NotReady()]
    bench.settings = bench.settings.model_copy(
        update={"queue": bench.settings.queue.model_copy(update={"retry_delay_s": 0.0})}
    )
    await bench.submit()
    async with bench.dispatching():
        await bench.result()
    told = [(line["attempt"], line["status"], line.get("error_type")) for line in lines.json]
    assert told == [
        (1, 503, "runner_scheduling_failure"),
        (2, 503, "runner_scheduling_failure"),
        (3, 200, None),
    ]


async def test_an_attempt_that_is_broken_off_is_told(bench: Bench, lines: Lines) -> None:
    """It has no status, since nobody waits for one."""
    bench.gate.clear()
    await bench.submit()
    async with bench.dispatching():
        async with asyncio.timeout(60):
            while not bench.runs:  # noqa: ASYNC110, it is looked at from outside
                await asyncio.sleep(0.005)
        await bench.store.cancel("key", "a")
        await bench.result()
    [line] = lines.about("execute")
    assert (line["error_type"], "status" in line) == ("cancelled", False)


async def test_a_trace_goes_on_where_the_submit_left_it(
    bench: Bench, lines: Lines, tmp_path: Path
) -> None:
    """The wait, the attempt and what it leads to belong to the trace that the store kept."""
    tracing = TracingSettings(exporter="file", folder=str(tmp_path / "traces"))
    bench.settings = bench.settings.model_copy(update={"tracing": tracing})
    await bench.submit(trace=TRACE)
    bench.now += 3.0
    async with bench.dispatching():
        await bench.result()
    spans = {span.name: span for span in spans_in(tmp_path / "traces")}
    assert set(spans) == {"queue", "execute caption"}
    assert {f"00-{span.trace}-{span.parent}-01" for span in spans.values()} == {TRACE}
    execute = spans["execute caption"]
    assert execute.kind == "consumer"
    assert [run.trace for run in bench.runs] == [f"00-{execute.trace}-{execute.id}-01"]
    assert [line["trace_id"] for line in lines.about("execute")] == [execute.trace]


async def test_old_pictures_are_removed(bench: Bench) -> None:
    """A request's files go with it."""
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
