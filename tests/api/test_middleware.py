"""The middleware: ids, errors, CORS headers and rewritten paths."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from fastapi.responses import StreamingResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from deployments.api.auth import Keyring
from deployments.api.middleware import proxied, rewrite_path, trim
from deployments.florence.messages import Finished, Request
from deployments.settings import KeySettings

from .service import ANSWER, AUTHORIZED, CAPTION, QUEUED, Serve, Service

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
def test_every_response(
    shared: Service, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Each has a new UUID and the CORS headers; an error is JSON with a type and a retry hint."""
    response = shared.client.request(method, path, headers=headers)

    assert response.status_code == status
    assert str(UUID(response.headers["x-fal-request-id"])) == response.headers["x-fal-request-id"]
    assert response.headers["access-control-allow-origin"] == "*"
    for name in ("x-fal-request-id", "x-fal-error-type", "x-fal-request-timeout-type", "etag"):
        assert name in response.headers["access-control-expose-headers"]
    if status >= 400:
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-fal-error-type"]
        assert response.headers["x-fal-needs-retry"] == "0"
        assert response.headers["x-fal-retryable"] == "false"
        assert "detail" in response.json()


def test_ids_differ(shared: Service) -> None:
    """Each request has an id of its own."""
    ids = {shared.client.get("/health").headers["x-fal-request-id"] for _ in range(3)}

    assert len(ids) == 3


def test_a_bug_is_a_500_without_details(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
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


def test_errors_of_clients_are_not_logged_as_errors(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that cries at every 422 would not be read."""
    service.post({})

    assert warnings(caplog) == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The lines that an operator should see."""
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


ORIGIN = "https://app.example.com"


@pytest.mark.parametrize("path", [CAPTION, "/api/fal/proxy", "/cdn/files/x", "/health", "/nope"])
def test_preflight_is_answered_everywhere(shared: Service, path: str) -> None:
    """A browser may ask on every route, and learns methods and headers."""
    asked = "authorization,content-type,x-fal-tags,x-made-up"
    response = shared.client.options(
        path,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": asked,
        },
    )

    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-methods"] == "GET, HEAD, POST, PUT, OPTIONS"
    assert response.headers["access-control-allow-headers"] == asked
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["access-control-max-age"] == "600"


def test_preflight_lists_what_the_clients_send(shared: Service) -> None:
    """Who does not say which headers learns all that fal's clients use."""
    accepted = shared.client.options(CAPTION).headers["access-control-allow-headers"]

    sent = {"authorization", "content-type", "x-fal-target-url", "idempotency-key"}
    assert sent <= set(accepted.split(", "))


@pytest.mark.parametrize(("origin", "allowed"), [(ORIGIN, ORIGIN), ("https://evil.com", None)])
def test_origins_can_be_listed(serve: Serve, origin: str, allowed: str | None) -> None:
    """With a list of origins, only those are allowed, and caches are warned."""
    service = serve(ingress={"cors_origins": [ORIGIN]})
    response = service.client.post(CAPTION, headers={"Origin": origin})

    assert response.headers.get("access-control-allow-origin") == allowed
    assert response.headers["vary"] == "Origin"


def test_files_are_for_any_page(serve: Serve) -> None:
    """Pictures are public, so the list of origins does not hold for them."""
    service = serve(ingress={"cors_origins": [ORIGIN]})
    response = service.client.get("/cdn/files/nope", headers={"Origin": "https://other.com"})

    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("what", ["", "/status", "/status/stream", "/response"])
def test_the_queue_may_be_asked_from_any_page(shared: Service, what: str) -> None:
    """A browser may read what the queue says, its events and its errors alike, and its headers."""
    request_id = shared.submit().json()["request_id"]
    shared.cancel(request_id)
    for known in (request_id, "nope"):
        response = shared.get(f"{QUEUED}/{known}{what}", Origin=ORIGIN)

        assert response.headers["access-control-allow-origin"] == "*"
        assert "idempotent-replayed" in response.headers["access-control-expose-headers"]


PROXY = "/api/fal/proxy"


def through(service: Service, target: str | None, method: str = "POST", **more: Any) -> Any:
    """A request through the proxy, with the key."""
    label = {} if target is None else {"x-fal-target-url": target}
    more.setdefault("json", {"image_url": "u"})
    return service.client.request(method, PROXY, headers=AUTHORIZED | label, **more)


@pytest.mark.parametrize(
    "target",
    [
        f"https://fal.run{CAPTION}",
        f"https://fal.run{CAPTION}/",
        f"https://fal.run{CAPTION}?x=1",
        f"https://FAL.run:443{CAPTION}",
        "https://fal.run/fal-ai/florence%2D2-large/caption",
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_runs_through_the_proxy(shared: Service, target: str, slash: str) -> None:
    """A target on fal.run is a run, as if it had been called directly."""
    headers = AUTHORIZED | {"x-fal-target-url": target}
    response = shared.client.post(PROXY + slash, json={"image_url": "u"}, headers=headers)

    assert (response.status_code, response.json()) == (200, ANSWER.output)
    assert response.headers["x-fal-request-id"] == shared.runs[-1].id


@pytest.mark.parametrize(
    "target",
    [
        "https://queue.fal.run/fal-ai/florence-2-large",
        "https://queue.fal.run/fal-ai/florence-2-large/requests",
        "https://rest.alpha.fal.ai/tokens/",
        "https://fal.run/health",
        "https://fal.run/api/fal/proxy",
        "https://fal.run/../metrics",
        "https://fal.run",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_what_is_not_served_is_not_found(shared: Service, target: str, method: str) -> None:
    """Every fal host has a prefix of its own, so that no other route is reached through it."""
    response = through(shared, target, method)

    assert (response.status_code, response.json()["error_type"]) == (404, "not_found")


@pytest.mark.parametrize(
    "target",
    [
        None,
        "",
        CAPTION,
        "fal.run" + CAPTION,
        "https://example.com" + CAPTION,
        "https://fal.run.example.com" + CAPTION,
        "https://fal.run@example.com" + CAPTION,
        "https://xfal.run" + CAPTION,
        "file://fal.run" + CAPTION,
        "http://169.254.169.254/latest",
        "https://[",
        "https://fal.run\\@example.com/",
    ],
)
def test_other_targets_are_bad_requests(shared: Service, target: str | None) -> None:
    """A label that names no host of fal is refused."""
    response = through(shared, target)

    assert (response.status_code, response.json()["error_type"]) == (400, "bad_request")
    assert shared.runs == []


def test_proxy_needs_a_key(shared: Service) -> None:
    """The key is checked before the label is looked at."""
    response = shared.client.post(PROXY, json={}, headers={"x-fal-target-url": "nonsense"})

    assert response.status_code == 401


def test_other_methods_are_refused_as_by_the_run(shared: Service) -> None:
    """GET of a run through the proxy is 405, as it is directly."""
    response = through(shared, f"https://fal.run{CAPTION}", "GET")

    assert (response.status_code, response.headers["allow"]) == (405, "OPTIONS, POST")


def test_query_of_the_label_replaces_the_query(service: Service) -> None:
    """The label brings its own query."""
    path, query = proxied("https://rest.fal.ai/tokens/?a=b%20c&d=1#x")

    assert (path, query) == ("/rest/tokens", b"a=b%20c&d=1")


A = "/fal-ai/florence-2-large"


@pytest.mark.parametrize(
    ("host", "path", "prefix"),
    [
        ("a.example", f"{A}/caption", "/run"),
        ("a.example", f"{A}/nope", "/run"),
        ("a.example", f"{A}/requests/1", "/queue"),
        ("a.example", f"{A}/requests/1/status/stream", "/queue"),
        ("a.example", f"{A}/caption/requests/1/cancel", "/queue"),
        ("a.example", f"{A}/requests", "/run"),
        ("a.example", f"{A}/x/y/requests/1", "/run"),
        ("a.queue.example", f"{A}/caption", "/run"),
        ("queue", f"{A}/caption", "/run"),
        ("queue.a.example", f"{A}/caption", "/queue"),
        ("QUEUE.a.example:8443", f"{A}/caption", "/queue"),
        ("queue.a.example", f"{A}/requests/1", "/queue"),
        ("queue.a.example", f"/run{A}/caption", ""),
        ("queue.a.example", f"/queue{A}/caption", ""),
        ("queue.a.example", "/rest/storage/upload/initiate", ""),
        ("queue.a.example", "/cdn/files/x", ""),
        ("queue.a.example", "/health", ""),
        ("a.example", "/fal-ai/other/caption", ""),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_paths_below_the_application_are_rewritten(
    shared: Service, host: str, path: str, prefix: str, slash: str
) -> None:
    """A bare path is a run, unless it names a request or came to a host called queue."""
    scope: dict[str, Any] = {
        "type": "http",
        "path": path + slash,
        "scheme": "http",
        "headers": [(b"host", host.encode())],
        "state": {},
    }
    asyncio.run(rewrite_path(scope, Keyring(KeySettings(), shared.store)))

    assert scope["path"] == prefix + path
    assert scope["raw_path"] == (prefix + path).encode()


def test_the_queue_has_a_host_of_its_own(service: Service) -> None:
    """A submit at queue.… needs no prefix, and nothing runs; elsewhere the same path runs."""
    response = service.submit(CAPTION, Host="queue.a.example")

    assert (response.json()["status"], service.runs) == ("IN_QUEUE", [])
    assert service.submit(CAPTION, Host="a.example").json() == ANSWER.output
    assert service.get("/health", Host="queue.a.example").status_code == 200


def test_a_submit_through_the_proxy(service: Service) -> None:
    """A target on queue.fal.run is a submit, with the query of the label."""
    target = f"https://queue.fal.run{CAPTION}?fal_webhook=https%3A%2F%2Fw.example%2Fh%3Fa%3D1"
    response = through(service, target)

    assert (response.status_code, response.json()["status"]) == (200, "IN_QUEUE")
    assert service.queued()[0]["webhook_url"] == "https://w.example/h?a=1"


@pytest.mark.parametrize(
    ("path", "trimmed"), [("/", "/"), ("", "/"), ("/a/", "/a"), ("/a", "/a"), ("//", "/")]
)
def test_trim(path: str, trimmed: str) -> None:
    """A slash at the end goes; the root stays."""
    assert trim(path) == trimmed


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["https://fal.run/", "https://", "http://rest.fal.ai", ""]),
    st.text(st.characters(min_codepoint=33, max_codepoint=255)),
)
def test_no_label_breaks_the_service(shared: Service, start: str, rest: str) -> None:
    """Whatever the label is, the answer is one of the client's errors."""
    label = {b"x-fal-target-url": (start + rest).encode("latin-1")}
    key = {name.encode(): value.encode() for name, value in AUTHORIZED.items()}
    response = shared.client.post(PROXY, json={}, headers=[*label.items(), *key.items()])

    assert response.status_code in (400, 404)
