"""Server-sent events: the output of a run, and the status of a job."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from deployments.api.responses import queue_status
from deployments.api.sse import StatusEvents
from deployments.errors import (
    FileDownloadError,
    GenerationError,
    Overloaded,
    RequestTimeout,
    RunnerDisconnected,
)
from deployments.florence.messages import Finished, PartialOutput, Request
from deployments.florence.partial_parser import OnPartial
from deployments.florence.tasks import TASKS
from deployments.jobs.api_key import ApiKey
from deployments.jobs.job import JobOutcome, JobState, JobStatus, LogLine, Submission
from deployments.settings import hash_key
from tests.florence.questions import body_of
from tests.jobs.memory import MemoryStore

from .http_exchange import HttpExchange
from .service import (
    ANSWER,
    AUTHORIZED,
    CAPTION,
    KEY_ID,
    MODEL,
    OTHER_KEY,
    QUEUED,
    AwayStore,
    Serve,
    Service,
    StreamFunction,
)

INPUT = {"image_url": "https://example.com/car.jpg"}
BODY = json.dumps(INPUT).encode()
STREAM = f"{CAPTION}/stream"
PARTS = [{"results": "a"}, {"results": "a red"}]


def events(response: Any) -> list[Any]:
    """The data of each event."""
    return [
        json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event
    ]


def test_a_stream_says_who_answers(serve: Serve) -> None:
    """From its first output on, which may be the last."""

    async def stream(given: Request, on_partial: OnPartial) -> Finished:
        on_partial(PartialOutput(PARTS[0], MODEL))
        await asyncio.sleep(0.01)
        return ANSWER

    for service in (serve(stream=stream), serve()):
        response = service.client.post(STREAM, content=BODY, headers=AUTHORIZED)
        assert response.headers["x-florence-model"] == MODEL


def failing(error: Exception) -> StreamFunction:
    """A run that sends a partial output, then fails."""

    async def stream(given: Request, on_partial: OnPartial) -> Finished:
        on_partial(PartialOutput(PARTS[0], MODEL))
        await asyncio.sleep(0.01)
        raise error

    return stream


def ending(response: Any) -> Any:
    """The data of the error that the stream ends with."""
    first, last, rest = response.text.split("\n\n")
    assert json.loads(first.removeprefix("data: ")) == PARTS[0]
    assert rest == ""
    name, data = last.split("\n")
    assert name == "event: error"
    return json.loads(data.removeprefix("data: "))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("path", ["/{}/stream", "/{}/stream/", "/run/{}/stream"])
def test_every_task_can_be_streamed(shared: Service, task: str, path: str) -> None:
    """The last event is the whole output, also where none comes before it."""
    response = shared.post(
        body_of(TASKS[task]), path.format(TASKS[task].endpoint), accept="application/json"
    )

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert events(response) == [ANSWER.output]
    assert response.headers["x-fal-request-id"] == shared.runs[-1].id
    assert shared.runs[-1].task == task


def test_each_event_is_sent_at_once(serve: Serve) -> None:
    """An event arrives while the run goes on."""

    async def scenario() -> None:
        sent = [asyncio.Event() for _ in PARTS]

        async def stream(given: Request, on_partial: OnPartial) -> Finished:
            for part, go_on in zip(PARTS, sent, strict=True):
                on_partial(PartialOutput(part))
                await go_on.wait()
            return ANSWER

        service = serve(stream=stream)
        async with HttpExchange(service.app, STREAM, "", BODY) as exchange:
            status, headers = await exchange.start()
            assert (status, headers["x-fal-request-id"]) == (200, service.runs[0].id)
            for part, go_on in zip(PARTS, sent, strict=True):
                assert await exchange.event() == part
                go_on.set()
            assert await exchange.event() == ANSWER.output
            assert await exchange.piece() == ""

    asyncio.run(scenario())


def test_an_event_stays_in_one_line(serve: Serve) -> None:
    """A line break in the output does not end the event."""
    output = {"results": "one\ntwo\r\n\nthree"}

    async def run(given: Request) -> Finished:
        return Finished(output, ANSWER.stages)

    assert events(serve(run).post(INPUT, STREAM)) == [output]


def test_an_error_before_the_first_event_is_no_event(serve: Serve) -> None:
    """What fails is answered as a run that fails: with its status."""

    async def run(given: Request) -> Finished:
        raise FileDownloadError

    response = serve(run).post(INPUT, STREAM)

    assert response.status_code == 422
    assert response.json()["detail"][0]["type"] == "file_download_error"


@pytest.mark.parametrize("error", [RunnerDisconnected(), Overloaded(), RequestTimeout()])
def test_an_error_after_the_first_event_is_the_last(serve: Serve, error: Any) -> None:
    """Its data is what a run that fails is answered with."""
    response = serve(stream=failing(error)).post(INPUT, STREAM)

    assert response.status_code == 200
    assert ending(response) == error.body()


def test_an_unexpected_error_hides_its_text(serve: Serve) -> None:
    """The log has it, under the request id."""
    response = serve(stream=failing(ZeroDivisionError("secret"))).post(INPUT, STREAM)

    assert ending(response)["error_type"] == "internal_error"
    assert "secret" not in response.text


def test_a_stream_ends_at_its_deadline(serve: Serve) -> None:
    """Also when a partial output was sent."""
    cancelled = []

    async def stream(given: Request, on_partial: OnPartial) -> Finished:
        on_partial(PartialOutput(PARTS[0], MODEL))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(given)
            raise
        return ANSWER

    response = serve(stream=stream, ingress={"deadline_s": 0.05}).post(INPUT, STREAM)

    assert ending(response)["error_type"] == "request_timeout"
    assert len(cancelled) == 1


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_run_is_cancelled_on_disconnect(serve: Serve, has_begun: bool) -> None:
    """Before the first event, and after it; then another may run."""

    async def scenario() -> None:
        began, cancelled = asyncio.Event(), asyncio.Event()

        async def stream(given: Request, on_partial: OnPartial) -> Finished:
            if has_begun:
                on_partial(PartialOutput(PARTS[0], MODEL))
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return ANSWER

        service = serve(stream=stream, ingress={"max_running": 1})
        await service.store.add_key(ApiKey(id="other", hash=hash_key(OTHER_KEY), concurrency=1))
        key = {"Authorization": f"Key {OTHER_KEY}"}
        async with HttpExchange(service.app, STREAM, "", BODY, **key) as exchange:
            if has_begun:
                assert (await exchange.start())[0] == 200
                assert await exchange.event() == PARTS[0]
            await began.wait()
        assert cancelled.is_set()
        assert await service.store.acquire_slot("other", "next", 1.0)
        assert "florence_ingress_running 0.0" in service.metrics()

    asyncio.run(scenario())


def test_a_stream_counts_as_running(serve: Serve) -> None:
    """While it lasts, the next run is beyond the limit."""

    async def scenario() -> None:
        async def stream(given: Request, on_partial: OnPartial) -> Finished:
            on_partial(PartialOutput(PARTS[0], MODEL))
            await asyncio.Event().wait()
            return ANSWER

        service = serve(stream=stream, ingress={"max_running": 1})
        async with HttpExchange(service.app, STREAM, "", BODY) as first:
            assert (await first.start())[0] == 200
            for path in (CAPTION, STREAM):
                async with HttpExchange(service.app, path, "", BODY) as second:
                    status, headers = await second.start()
                    assert (status, headers["retry-after"]) == (429, "1")

    asyncio.run(scenario())


def test_what_cannot_be_sent_is_not_worked_on(serve: Serve) -> None:
    """A connection that breaks ends the run, also without a disconnect message."""

    async def scenario() -> None:
        cancelled = asyncio.Event()

        async def stream(given: Request, on_partial: OnPartial) -> Finished:
            on_partial(PartialOutput(PARTS[0], MODEL))
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return ANSWER

        async def broken(_message: Any) -> None:
            raise OSError("broken")

        service = serve(stream=stream)
        exchange = HttpExchange(service.app, STREAM, "", BODY)
        exchange.send = broken
        with pytest.raises(OSError, match="broken"):
            async with exchange:
                await asyncio.wait({exchange.task})
        assert cancelled.is_set()

    asyncio.run(scenario())


def test_a_stream_is_counted_as_a_run(serve: Serve) -> None:
    """Its metrics are the run's."""

    async def stream(given: Request, on_partial: OnPartial) -> Finished:
        on_partial(PartialOutput(PARTS[0], MODEL))
        return ANSWER

    service = serve(stream=stream)
    service.post(INPUT, STREAM)

    text = service.metrics()
    endpoint = 'endpoint="fal-ai/florence-2-large/caption"'
    assert f'florence_ingress_requests_total{{{endpoint},status="200"}} 1.0' in text
    assert f"florence_ingress_run_seconds_count{{{endpoint}}} 1.0" in text
    assert "florence_inference_tokens_sum 12.0" in text


pytestmark = pytest.mark.anyio

OUTPUT = {"results": "a red square"}
FIRST, SECOND = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls that follow each other at once."""
    monkeypatch.setattr(StatusEvents, "POLL_S", 0.001)
    monkeypatch.setattr(StatusEvents, "MAX_POLL_S", 0.002)


async def submit(store: MemoryStore, request_id: str = FIRST, key_id: str = KEY_ID) -> None:
    """Queue a request."""
    await store.submit(Submission(id=request_id, key_id=key_id, path="caption", input="{}"))


async def finish(store: MemoryStore, ending: JobOutcome | None = None) -> None:
    """End the next request."""
    [claimed] = await store.claim("worker", 1, 60.0)
    assert await store.finish(claimed.lease, ending or JobOutcome.done(OUTPUT, inference_s=0.25))


def watch(
    service: Service, request_id: str = FIRST, query: str = "", **headers: str
) -> HttpExchange:
    """The events of a request."""
    return HttpExchange(service.app, f"{QUEUED}/{request_id}/status/stream", query, **headers)


async def rest(exchange: HttpExchange) -> list[Any]:
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
    """A caller who waits sees the queue become shorter."""
    await submit(service.store, SECOND)
    await submit(service.store)
    async with watch(service) as exchange:
        await exchange.start()
        assert (await exchange.event())["queue_position"] == 1
        await finish(service.store)

        assert (await exchange.event())["queue_position"] == 0


async def test_each_line_of_the_log_is_sent_once(service: Service) -> None:
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
    """What was logged of a failed attempt is sent with the next one: fal's queue has no log."""
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
    monkeypatch.setattr(StatusEvents, "KEEP_ALIVE_S", 0.002)
    await submit(service.store)
    async with watch(service) as exchange:
        await exchange.start()
        await exchange.event()
        assert [await exchange.piece() for _ in range(2)] == [": keep-alive\n\n"] * 2
        await finish(service.store)

        assert any("COMPLETED" in event for event in await rest(exchange))


async def test_the_stream_ends_on_disconnect(service: Service) -> None:
    """The status is not polled for a caller who has left."""
    await submit(service.store)
    async with watch(service) as exchange:
        await exchange.start()
        await exchange.event()
        exchange.disconnect()
        async with asyncio.timeout(5):
            await exchange.task


async def test_the_stream_ends_when_the_request_is_forgotten() -> None:
    """A request that is gone has no more events."""

    async def gone() -> JobStatus | None:
        return None

    watching = StatusEvents(gone, partial(queue_status, queue_url=""), with_logs=False)
    waiting = JobStatus(id=FIRST, path="caption", state=JobState.QUEUED, position=0)

    assert len([event async for event in watching.events(waiting)]) == 1


async def test_a_store_that_is_away_for_a_moment_ends_no_stream(serve: Serve) -> None:
    """The caller waits on, and gets the change when the store is back."""
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


async def test_streams_take_no_slots(serve: Serve) -> None:
    """Status streams do not count as running."""
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
