"""What every response has, whatever happened."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from fastapi.responses import StreamingResponse
from starlette.types import Message

from deployments.florence.request import Finished, Request

from .service import AUTHORIZED, CAPTION, QUEUED, Serve, Service

REQUESTS: list[tuple[str, str, dict[str, str], int]] = [
    ("GET", "/health", {}, 200),
    ("GET", "/nope", {}, 404),
    ("GET", CAPTION, {}, 405),
    ("POST", CAPTION, {}, 401),
    ("POST", CAPTION, AUTHORIZED, 422),
    ("POST", CAPTION, AUTHORIZED | {"x-fal-request-timeout": "x"}, 400),
    ("POST", "/api/fal/proxy", AUTHORIZED, 400),
    ("OPTIONS", CAPTION, {}, 204),
    ("OPTIONS", "/nope", {}, 204),
    ("GET", "/cdn/files/nope", {}, 404),
    ("HEAD", "/health", {}, 200),
    ("POST", f"/queue{CAPTION}", {}, 401),
    ("POST", f"/queue{CAPTION}", AUTHORIZED, 422),
    ("GET", f"/queue{CAPTION}", AUTHORIZED, 405),
    ("GET", f"{QUEUED}/nope", AUTHORIZED, 404),
    ("GET", f"{QUEUED}/nope/status", {}, 401),
    ("GET", f"{QUEUED}/nope/status/stream", AUTHORIZED, 404),
    ("PUT", f"{QUEUED}/nope/cancel", AUTHORIZED, 404),
    ("POST", f"{QUEUED}/nope/cancel", AUTHORIZED, 405),
]


async def fail(run: Request) -> Finished:
    """A run that meets a bug."""
    raise RuntimeError("secret detail")


@pytest.mark.parametrize(("method", "path", "headers", "status"), REQUESTS)
def test_every_response_has_an_id_and_cors(
    service: Service, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """A new UUID and the CORS headers are on every response, good or bad."""
    response = service.client.request(method, path, headers=headers)

    assert response.status_code == status
    assert str(UUID(response.headers["x-fal-request-id"])) == response.headers["x-fal-request-id"]
    assert response.headers["access-control-allow-origin"] == "*"
    for name in ("x-fal-request-id", "x-fal-error-type", "x-fal-request-timeout-type", "etag"):
        assert name in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize(("method", "path", "headers", "status"), REQUESTS)
def test_every_error_is_json(
    service: Service, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """An error is JSON and says its type and whether to try again."""
    response = service.client.request(method, path, headers=headers)

    if status >= 400:
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-fal-error-type"]
        assert response.headers["x-fal-needs-retry"] == "0"
        assert response.headers["x-fal-retryable"] == "false"
        assert "detail" in response.json()


def test_ids_differ(service: Service) -> None:
    """Each request has an id of its own."""
    ids = {service.client.get("/health").headers["x-fal-request-id"] for _ in range(3)}

    assert len(ids) == 3


def test_a_bug_is_a_500_that_tells_nothing(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged with its traceback under the id, and not leaked."""
    response = serve(fail).post({"image_url": "u"})

    assert response.status_code == 500
    assert response.json()["error_type"] == "internal_error"
    assert response.headers["x-fal-needs-retry"] == "1"
    assert response.headers["x-fal-retryable"] == "true"
    assert response.headers["access-control-allow-origin"] == "*"
    assert "secret" not in response.text
    (record,) = warnings(caplog)
    assert response.headers["x-fal-request-id"] in record.getMessage()
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])


def test_errors_of_clients_are_not_cried_out(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that cries at every 422 would not be read."""
    service.post({})

    assert warnings(caplog) == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the log holds for an operator to look into."""
    ours = [record for record in caplog.records if record.name == "ray.serve.florence"]
    return [record for record in ours if record.levelno >= logging.WARNING]


def test_error_within_a_response_breaks_the_connection(service: Service) -> None:
    """What fails after its headers were sent is not followed by a second response."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("broken")

    async def streamed() -> StreamingResponse:
        return StreamingResponse(pieces())

    service.app.add_api_route("/broken", streamed)

    with pytest.raises(RuntimeError, match="broken"):
        service.client.get("/broken")


def test_streams_pass_untouched(service: Service) -> None:
    """Each piece of a streamed response is sent when it is there."""

    async def scenario() -> list[bytes]:
        sent: list[Message] = []
        seen = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            await seen.wait()
            yield b"two"

        async def streamed() -> StreamingResponse:
            return StreamingResponse(pieces())

        async def send(message: Message) -> None:
            sent.append(message)
            if message.get("body") == b"one":
                seen.set()

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        service.app.add_api_route("/streamed", streamed)
        async with asyncio.timeout(5):
            await service.app(get_scope("/streamed"), receive, send)
        return [message["body"] for message in sent if message.get("body")]

    assert asyncio.run(scenario()) == [b"one", b"two"]


def test_lifespan_passes_through(service: Service) -> None:
    """Starting and stopping the application is not taken for a request."""
    with service.client as client:
        assert client.get("/health").status_code == 200


def test_prefix_of_the_host_application(service: Service) -> None:
    """Mounted below a path, the same routes are found, and pictures get that path."""

    async def scenario() -> tuple[int, str]:
        sent: list[Message] = []
        body = [{"type": "http.request", "body": b'{"image_url":"u"}', "more_body": False}]

        async def receive() -> Message:
            if body:
                return body.pop()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            sent.append(message)

        scope = get_scope("/florence" + CAPTION + "/") | {
            "method": "POST",
            "root_path": "/florence",
            "headers": [
                (b"authorization", AUTHORIZED["Authorization"].encode()),
                (b"host", b"example.com"),
            ],
        }
        await service.app(scope, receive, send)
        return sent[0]["status"], service.runs[0].base_url

    assert asyncio.run(scenario()) == (200, "http://example.com/florence")


def test_requests_are_counted_by_route(service: Service) -> None:
    """A label is an endpoint or a group of routes, never a path that a client made up."""
    service.post({"image_url": "u"})
    service.post({})
    request_id = service.submit().json()["request_id"]
    service.get(f"{QUEUED}/{request_id}/status")
    service.get(f"{QUEUED}/{request_id}")
    service.get(f"{QUEUED}/{request_id}/response")
    service.cancel(request_id)
    service.get(f"/queue{CAPTION}/requests/{request_id}/status/stream")
    service.client.get("/cdn/files/a")
    service.client.get("/made/up")
    service.client.options("/made/up")
    service.client.get(CAPTION)
    counted = re.findall(r'requests_total\{endpoint="(.+)",status="(\d+)"\} 1.0', service.metrics())

    endpoint = CAPTION[1:]
    assert 'requests_total{endpoint="queue_result",status="400"} 2.0' in service.metrics()
    assert set(counted) == {
        (endpoint, "200"),
        (endpoint, "422"),
        (endpoint, "405"),
        ("queue_submit", "200"),
        ("queue_status", "202"),
        ("queue_cancel", "202"),
        ("queue_stream", "200"),
        ("files", "404"),
        ("unknown", "404"),
        ("preflight", "204"),
    }


def get_scope(path: str) -> dict[str, Any]:
    """The ASGI scope of a GET."""
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "scheme": "http",
        "query_string": b"",
        "headers": [],
    }
