"""A request's status as server-sent events."""

import asyncio
from functools import partial
from typing import Any

import pytest

from deployments.api.status_stream import Watch
from deployments.api.statuses import told
from deployments.errors import GenerationError
from deployments.jobs.job import JobOutcome, JobState, JobStatus, LogLine, Submission
from deployments.jobs.memory import MemoryStore

from .exchange import Exchange
from .service import KEY_ID, QUEUED, AwayStore, Serve, Service

pytestmark = pytest.mark.anyio

OUTPUT = {"results": "a red square"}
FIRST, SECOND = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))


@pytest.fixture
def anyio_backend() -> str:
    """The tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that follow each other at once."""
    monkeypatch.setattr(Watch, "POLL_S", 0.001)
    monkeypatch.setattr(Watch, "MAX_POLL_S", 0.002)


async def submit(store: MemoryStore, request_id: str = FIRST, key_id: str = KEY_ID) -> None:
    """Queue a request."""
    await store.submit(Submission(id=request_id, key_id=key_id, path="caption", input="{}"))


async def finish(store: MemoryStore, outcome: JobOutcome | None = None) -> None:
    """End the next request."""
    [claimed] = await store.claim("worker", 1, 60.0)
    assert await store.finish(claimed.lease, outcome or JobOutcome.done(OUTPUT, inference_s=0.25))


def watch(service: Service, request_id: str = FIRST, query: str = "", **headers: str) -> Exchange:
    """The events of a request."""
    return Exchange(service.app, f"{QUEUED}/{request_id}/status/stream", query, **headers)


async def rest(exchange: Exchange) -> list[Any]:
    """All events that are left."""
    events = []
    while piece := await exchange.piece():
        if not piece.startswith(":"):
            events.append(piece)
    return events


async def test_each_change_is_an_event(service: Service) -> None:
    """From the queue through the work to the end: one event each, then the stream is over."""
    await submit(service.store)
    async with watch(service) as exchange:
        await exchange.start()
        waiting = await exchange.event()
        [claimed] = await service.store.claim("worker", 1, 60.0)
        running = await exchange.event()
        await service.store.finish(claimed.lease, JobOutcome.done(OUTPUT, inference_s=0.25))
        ended = await exchange.event()

        assert await exchange.piece() == ""
    url = f"http://localhost{QUEUED}/{FIRST}"
    urls = {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
    asked = {"request_id": FIRST} | urls
    assert waiting == {"status": "IN_QUEUE", "queue_position": 0} | asked
    assert running == {"status": "IN_PROGRESS", "logs": []} | asked
    metrics = {"inference_time": 0.25}
    assert ended == {"status": "COMPLETED", "logs": [], "metrics": metrics} | asked


async def test_position_is_a_change(service: Service) -> None:
    """Whoever waits sees the queue before them become shorter."""
    await submit(service.store, SECOND)
    await submit(service.store)
    async with watch(service) as exchange:
        await exchange.start()
        assert (await exchange.event())["queue_position"] == 1
        await finish(service.store)

        assert (await exchange.event())["queue_position"] == 0


async def test_each_line_of_the_log_is_told_once(service: Service) -> None:
    """Clients add the lines of all events up, so none may come twice, and none may be missing."""
    await submit(service.store)
    lines = (LogLine("one"), LogLine("two", level="WARN"))
    async with watch(service, query="logs=1") as exchange:
        await exchange.start()
        assert "logs" not in await exchange.event()
        [claimed] = await service.store.claim("worker", 1, 60.0)
        events = [await exchange.event()]
        await service.store.finish(claimed.lease, JobOutcome.done(OUTPUT, logs=lines))
        events.append(await exchange.event())

    status = await service.store.status(KEY_ID, FIRST)
    assert status is not None
    logs = [entry["message"] for event in events for entry in event["logs"]]
    assert logs == [entry.message for entry in status.logs]
    assert {"one", "two"} <= set(logs)
    assert events[0]["logs"]


async def test_lines_wait_until_the_request_runs_again(service: Service) -> None:
    """What was logged of a failed attempt is told with the next one: fal's queue has no log."""
    await submit(service.store)
    async with watch(service, query="logs=true") as exchange:
        await exchange.start()
        await exchange.event()
        [claimed] = await service.store.claim("worker", 1, 60.0)
        running = await exchange.event()
        await service.store.retry_or_finish(claimed.lease, JobOutcome.failed(GenerationError()))
        again = await exchange.event()
        await service.store.claim("worker", 1, 60.0)
        second = await exchange.event()

    assert (again["status"], "logs" in again) == ("IN_QUEUE", False)
    logs = running["logs"] + second["logs"]
    status = await service.store.status(KEY_ID, FIRST)
    assert status is not None
    assert [entry["message"] for entry in logs] == [entry.message for entry in status.logs]


async def test_without_being_asked_for_the_log_is_no_change(service: Service) -> None:
    """Lines alone make no event for a caller who does not want them."""
    await submit(service.store)
    await finish(service.store, JobOutcome.done(OUTPUT, logs=(LogLine("one"),)))
    async with watch(service, query="logs=0") as exchange:
        await exchange.start()
        event = await exchange.event()

        assert (event["status"], event["logs"]) == ("COMPLETED", [])
        assert await exchange.piece() == ""


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "*/*", "image/png"])
async def test_headers_of_the_stream(service: Service, accept: str) -> None:
    """Events flow whatever the client says it accepts, and nothing on the way holds them back."""
    await submit(service.store)
    async with watch(service, Accept=accept) as exchange:
        status, headers = await exchange.start()

    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["x-fal-request-id"]


async def test_silence_is_interrupted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment says that the stream is alive, and another one, and the events go on."""
    monkeypatch.setattr(Watch, "KEEP_ALIVE_S", 0.002)
    await submit(service.store)
    async with watch(service) as exchange:
        await exchange.start()
        await exchange.event()
        assert [await exchange.piece() for _ in range(2)] == [": keep-alive\n\n"] * 2
        await finish(service.store)

        assert any("COMPLETED" in event for event in await rest(exchange))


async def test_the_stream_ends_when_the_caller_hangs_up(service: Service) -> None:
    """Nobody looks any more at a request for a caller who has left."""
    await submit(service.store)
    async with watch(service) as exchange:
        await exchange.start()
        await exchange.event()
        exchange.hang_up()
        async with asyncio.timeout(5):
            await exchange.task


async def test_the_stream_ends_when_the_request_is_forgotten() -> None:
    """A request that is gone has no more events."""

    async def gone() -> JobStatus | None:
        return None

    watching = Watch(gone, partial(told, queue_url=""), with_logs=False)
    waiting = JobStatus(id=FIRST, path="caption", state=JobState.QUEUED, position=0)

    assert len([event async for event in watching.events(waiting)]) == 1


async def test_a_store_that_is_away_for_a_moment_ends_no_stream(serve: Serve) -> None:
    """The caller waits on, and is told when the store is back."""
    store = AwayStore()
    store.is_away = False
    service = serve(store=store)
    await submit(store)
    async with watch(service) as exchange:
        await exchange.start()
        await exchange.event()
        store.is_away = True
        await asyncio.sleep(0.01)
        store.is_away = False
        await finish(store)

        assert any("COMPLETED" in event for event in await rest(exchange))


@pytest.mark.parametrize("request_id", [SECOND, "nope"])
async def test_unknown_requests_have_no_stream(service: Service, request_id: str) -> None:
    """What is not there, or another key's, is a 404 in JSON before any event."""
    await submit(service.store, SECOND, key_id="another")
    async with watch(service, request_id) as exchange:
        status, headers = await exchange.start()
        body = await exchange.piece()

    assert (status, headers["content-type"]) == (404, "application/json")
    assert '"status":"NOT_FOUND"' in body


async def test_streams_take_no_places(serve: Serve) -> None:
    """However many watch, there is room to run."""
    service = serve(ingress={"max_running": 1})
    await submit(service.store)
    async with watch(service) as one, watch(service) as other:
        assert [(await each.start())[0] for each in (one, other)] == [200, 200]
        assert "florence_ingress_running 0.0" in service.metrics()


async def test_head_of_a_stream_is_answered_at_once(service: Service) -> None:
    """HEAD has the stream's headers and does not wait for its end."""
    await submit(service.store)
    response = await asyncio.to_thread(
        service.client.head,
        f"{QUEUED}/{FIRST}/status/stream",
        headers={"Authorization": "Key kid:ksecret"},
    )

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
