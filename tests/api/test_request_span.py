"""Each run and submit has a line in the log and a span, and hands its trace on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import NotReady
from deployments.florence.messages import Finished, Request
from tests.lines import Lines, logging_lines
from tests.telemetry.spans import spans_in

from .service import ANSWER, AUTHORIZED, CAPTION, KEY, KEY_ID, Serve, Service

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
IMAGE = "data:image/png;base64,SECRETPIXELS"


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged in a test."""
    with logging_lines() as kept:
        yield kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where spans are written."""
    return tmp_path / "traces"


@pytest.fixture
def traced(folder: Path) -> dict[str, Any]:
    """The settings of a service that writes them."""
    return {"tracing": {"exporter": "file", "folder": str(folder)}}


def test_a_run_is_logged(service: Service, lines: Lines) -> None:
    """One line says whose it was, how it ended, and where its time went."""
    answer = service.post({"image_url": IMAGE})
    [line] = lines.about("run")
    logged = {
        "request_id": answer.headers["x-fal-request-id"],
        "key_id": KEY_ID,
        "endpoint": "caption",
        "status": 200,
        "attempt": 1,
        "fetch_ms": 100.0,
        "decode_ms": 20.0,
        "queue_wait_ms": 3.0,
        "model_ms": 250.0,
        "postprocess_ms": 0.5,
        "batch_size": 4,
        "tokens": 12,
    }
    assert logged.items() <= line.items()
    assert line["total_ms"] > 0
    assert len(lines.json) == 1


def test_a_run_that_was_begun_again_says_so(serve: Serve, lines: Lines) -> None:
    """The attempt is the one that came through."""

    async def second(run: Request) -> Finished:
        return replace(ANSWER, attempt=2)

    serve(run=second).post({"image_url": "u"})
    assert [line["attempt"] for line in lines.about("run")] == [2]


def test_a_stream_is_logged_when_it_ends(service: Service, lines: Lines) -> None:
    """In one line, as a run's."""
    answer = service.post({"image_url": "u"}, f"{CAPTION}/stream")
    [line] = lines.about("stream")
    assert line["request_id"] == answer.headers["x-fal-request-id"]
    assert (line["status"], line["tokens"]) == (200, 12)


def test_a_submit_is_logged(service: Service, lines: Lines) -> None:
    """Under the id of the request that it made."""
    answer = service.submit()
    [line] = lines.about("submit")
    assert line["request_id"] == answer.json()["request_id"]
    assert (line["key_id"], line["endpoint"], line["status"]) == (KEY_ID, "caption", 200)


def test_a_repeated_submit_is_about_the_request_that_is_there(
    service: Service, lines: Lines
) -> None:
    """Its line is found under the id that the client knows."""
    for _ in range(2):
        answer = service.submit(Idempotency_Key="once")
    ids = {line["request_id"] for line in lines.about("submit")}
    assert ids == {answer.json()["request_id"]}


def test_an_error_is_logged(service: Service, lines: Lines) -> None:
    """A wrong key, a wrong input and a failure of ours, as the client sees it."""
    service.client.post(CAPTION, json={"image_url": "u"}, headers={"Authorization": "Key a:b"})
    service.client.post(f"/queue{CAPTION}", json={}, headers=AUTHORIZED)
    service.post({"image_url": 1})
    logged = [(line["status"], line["error_type"], line.get("key_id")) for line in lines.json]
    assert logged == [
        (401, "unauthorized", None),
        (422, "value_error", KEY_ID),
        (422, "value_error", KEY_ID),
    ]


def test_a_failure_of_ours_is_logged(serve: Serve, lines: Lines) -> None:
    """What was foreseen in one line; for what was not, another one says where it happened."""

    async def away(run: Request) -> Finished:
        raise NotReady

    async def broken(run: Request) -> Finished:
        raise KeyError("here")

    serve(run=away).post({"image_url": "u"})
    answer = serve(run=broken).post({"image_url": "u"})
    first, second, error = lines.json
    assert (first["status"], first["error_type"]) == (503, "runner_scheduling_failure")
    assert (second["status"], second["error_type"]) == (500, "internal_error")
    assert "KeyError: 'here'" in error["exc_text"]
    assert {second["request_id"], error["request_id"]} == {answer.headers["x-fal-request-id"]}


def test_polling_is_not_logged(service: Service, lines: Lines) -> None:
    """Clients poll a status ten times a second."""
    submitted = service.submit().json()
    lines.json.clear()
    service.get(submitted["status_url"])
    service.get(submitted["response_url"])
    service.get("/health")
    assert lines.json == []


def test_no_line_holds_a_secret(serve: Serve, lines: Lines) -> None:
    """Neither a key nor an image nor where a webhook goes, whatever happens to the request."""

    async def broken(run: Request) -> Finished:
        raise KeyError("x")

    service = serve(run=broken)
    body = {"image_url": IMAGE}
    service.post(body)
    service.post(body, f"{CAPTION}/stream")
    service.post(body, f"/queue{CAPTION}?fal_webhook=https://hooks.test/TOKEN")
    service.post(body | {"num_beams": "SECRETPIXELS"})
    service.client.post(CAPTION, json=body, headers={"Authorization": "Key wrong:SECRETKEY"})
    written = "".join(map(str, lines.json)) + "".join(lines.text)
    assert len(lines.json) >= 5
    for secret in (KEY, KEY.partition(":")[2], "SECRETPIXELS", "SECRETKEY", "TOKEN"):
        assert secret not in written


def test_a_callers_trace_leads_to_the_run(
    serve: Serve, lines: Lines, folder: Path, traced: dict[str, Any]
) -> None:
    """The span is the child of the caller's, what is run is the span's, and the line says which."""
    service = serve(**traced)
    with service.client:
        service.post({"image_url": IMAGE}, traceparent=PARENT)
    [span], [run], [line] = spans_in(folder), service.runs, lines.about("run")
    assert (span.trace, span.parent) == (TRACE, "b7ad6b7169203331")
    assert run.trace == f"00-{TRACE}-{span.id}-01"
    assert line["trace_id"] == TRACE
    assert (span.name, span.kind) == ("run caption", "server")
    assert span.attributes["florence.key_id"] == KEY_ID
    assert span.attributes["http.response.status_code"] == 200
    assert "SECRETPIXELS" not in "".join(file.read_text() for file in folder.iterdir())


def test_a_queued_request_keeps_its_trace(
    serve: Serve, folder: Path, traced: dict[str, Any]
) -> None:
    """The store keeps it for the worker and the webhook."""
    service = serve(**traced)
    with service.client:
        service.submit(f"/queue{CAPTION}?fal_webhook=https://hooks.test/x", traceparent=PARENT)
        claimed = service.claim()
    [span] = spans_in(folder)
    assert claimed.trace == f"00-{TRACE}-{span.id}-01"


def test_without_tracing_there_is_no_trace(service: Service, lines: Lines) -> None:
    """Whatever the caller sends."""
    service.post({"image_url": "u"}, traceparent=PARENT)
    service.submit(traceparent=PARENT)
    assert [run.trace for run in service.runs] == [""]
    assert service.claim().trace == ""
    assert all("trace_id" not in line for line in lines.json)
