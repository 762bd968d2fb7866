"""The stream of a run: the output so far each time it has grown, at last all of it."""

import asyncio
import json
from typing import Any

import pytest

from deployments.api.dependencies import Tell
from deployments.errors import FileDownloadError, Overloaded, RequestTimeout, RunnerDisconnected
from deployments.florence.request import Finished, Request
from deployments.florence.tasks import TASKS
from deployments.jobs.api_key import ApiKey
from deployments.settings import hash_key

from .exchange import Exchange
from .service import ANSWER, CAPTION, OTHER_KEY, Serve, Service, StreamFunction

INPUT = {"image_url": "https://example.com/car.jpg"}
BODY = json.dumps(INPUT).encode()
STREAM = f"{CAPTION}/stream"
PARTS = [{"results": "a"}, {"results": "a red"}]


def events(response: Any) -> list[Any]:
    """The data of each event."""
    return [
        json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event
    ]


def failing(error: Exception) -> StreamFunction:
    """A run that tells of something, then fails."""

    async def stream(given: Request, tell: Tell) -> Finished:
        tell(PARTS[0])
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
def test_every_task_can_be_streamed(service: Service, task: str, path: str) -> None:
    """The last event is the whole output, also where nothing is told before it."""
    response = service.post(INPUT, path.format(TASKS[task].endpoint), accept="application/json")

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert events(response) == [ANSWER.output]
    assert response.headers["x-fal-request-id"] == service.runs[0].id
    assert service.runs[0].task == task


def test_what_is_told_is_sent_at_once(serve: Serve) -> None:
    """An event arrives while the run goes on."""

    async def scenario() -> None:
        told = [asyncio.Event() for _ in PARTS]

        async def stream(given: Request, tell: Tell) -> Finished:
            for part, go_on in zip(PARTS, told, strict=True):
                tell(part)
                await go_on.wait()
            return ANSWER

        service = serve(stream=stream)
        async with Exchange(service.app, STREAM, "", BODY) as exchange:
            status, headers = await exchange.start()
            assert (status, headers["x-fal-request-id"]) == (200, service.runs[0].id)
            for part, go_on in zip(PARTS, told, strict=True):
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


def test_an_unforeseen_error_tells_nothing_of_itself(serve: Serve) -> None:
    """The log has it, under the request id."""
    response = serve(stream=failing(ZeroDivisionError("secret"))).post(INPUT, STREAM)

    assert ending(response)["error_type"] == "internal_error"
    assert "secret" not in response.text


def test_a_stream_ends_at_its_deadline(serve: Serve) -> None:
    """Also when something has been told."""
    cancelled = []

    async def stream(given: Request, tell: Tell) -> Finished:
        tell(PARTS[0])
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
def test_a_run_is_cancelled_when_the_caller_hangs_up(serve: Serve, has_begun: bool) -> None:
    """Before the first event, and after it; the places are free again."""

    async def scenario() -> None:
        began, cancelled = asyncio.Event(), asyncio.Event()

        async def stream(given: Request, tell: Tell) -> Finished:
            if has_begun:
                tell(PARTS[0])
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return ANSWER

        service = serve(stream=stream, ingress={"max_running": 1})
        await service.store.add_key(ApiKey(id="other", hash=hash_key(OTHER_KEY), concurrency=1))
        key = {"Authorization": f"Key {OTHER_KEY}"}
        async with Exchange(service.app, STREAM, "", BODY, **key) as exchange:
            if has_begun:
                assert (await exchange.start())[0] == 200
                assert await exchange.event() == PARTS[0]
            await began.wait()
        assert cancelled.is_set()
        assert await service.store.acquire_slot("other", "next", 1.0)
        assert "florence_ingress_running 0.0" in service.metrics()

    asyncio.run(scenario())


def test_a_stream_takes_a_place(serve: Serve) -> None:
    """As long as it lasts, the next run finds all places taken."""

    async def scenario() -> None:
        async def stream(given: Request, tell: Tell) -> Finished:
            tell(PARTS[0])
            await asyncio.Event().wait()
            return ANSWER

        service = serve(stream=stream, ingress={"max_running": 1})
        async with Exchange(service.app, STREAM, "", BODY) as first:
            assert (await first.start())[0] == 200
            for path in (CAPTION, STREAM):
                async with Exchange(service.app, path, "", BODY) as second:
                    status, headers = await second.start()
                    assert (status, headers["retry-after"]) == (429, "1")

    asyncio.run(scenario())


def test_what_cannot_be_sent_is_not_worked_on(serve: Serve) -> None:
    """A connection that breaks ends the run, though nobody has said that the caller left."""

    async def scenario() -> None:
        cancelled = asyncio.Event()

        async def stream(given: Request, tell: Tell) -> Finished:
            tell(PARTS[0])
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return ANSWER

        async def broken(_message: Any) -> None:
            raise OSError("broken")

        service = serve(stream=stream)
        exchange = Exchange(service.app, STREAM, "", BODY)
        exchange.send = broken
        with pytest.raises(OSError, match="broken"):
            async with exchange:
                await asyncio.wait({exchange.task})
        assert cancelled.is_set()

    asyncio.run(scenario())


def test_a_stream_is_counted_as_a_run(serve: Serve) -> None:
    """Its metrics are the run's."""

    async def stream(given: Request, tell: Tell) -> Finished:
        tell(PARTS[0])
        return ANSWER

    service = serve(stream=stream)
    service.post(INPUT, STREAM)

    text = service.metrics()
    endpoint = 'endpoint="fal-ai/florence-2-large/caption"'
    assert f'florence_ingress_requests_total{{{endpoint},status="200"}} 1.0' in text
    assert f"florence_ingress_run_seconds_count{{{endpoint}}} 1.0" in text
    assert "florence_inference_tokens_sum 12.0" in text
