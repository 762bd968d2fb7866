"""The proxy door: the target is a label that picks the route."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.api.auth import Keyring
from deployments.api.path_rewrite import destination, enter, trim
from deployments.settings import KeySettings

from .service import ANSWER, AUTHORIZED, CAPTION, Service

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
def test_runs_through_the_proxy(service: Service, target: str, slash: str) -> None:
    """A target on fal.run is a run, as if it had been called directly."""
    headers = AUTHORIZED | {"x-fal-target-url": target}
    response = service.client.post(PROXY + slash, json={"image_url": "u"}, headers=headers)

    assert (response.status_code, response.json()) == (200, ANSWER.output)
    assert response.headers["x-fal-request-id"] == service.runs[0].id


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
def test_what_is_not_served_is_not_found(service: Service, target: str, method: str) -> None:
    """Every fal host has a prefix of its own, so that no other route is reached through it."""
    response = through(service, target, method)

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
def test_other_targets_are_bad_requests(service: Service, target: str | None) -> None:
    """A label that names no host of fal is refused."""
    response = through(service, target)

    assert (response.status_code, response.json()["error_type"]) == (400, "bad_request")
    assert service.runs == []


def test_proxy_needs_a_key(service: Service) -> None:
    """The key is checked before the label is looked at."""
    response = service.client.post(PROXY, json={}, headers={"x-fal-target-url": "nonsense"})

    assert response.status_code == 401


def test_other_methods_are_refused_as_by_the_run(service: Service) -> None:
    """GET of a run through the proxy is 405, as it is directly."""
    response = through(service, f"https://fal.run{CAPTION}", "GET")

    assert (response.status_code, response.headers["allow"]) == (405, "OPTIONS, POST")


def test_query_of_the_label_replaces_the_query(service: Service) -> None:
    """The label brings its own query."""
    path, query = destination("https://rest.fal.ai/tokens/?a=b%20c&d=1#x")

    assert (path, query) == ("/rest/tokens", b"a=b%20c&d=1")


A = "/fal-ai/florence-2-large"


@pytest.mark.parametrize(
    ("host", "path", "led"),
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
def test_paths_below_the_application_are_led_on(
    service: Service, host: str, path: str, led: str, slash: str
) -> None:
    """A bare path is a run, unless it names a request or came to a host called queue."""
    scope: dict[str, Any] = {
        "type": "http",
        "path": path + slash,
        "scheme": "http",
        "headers": [(b"host", host.encode())],
        "state": {},
    }
    asyncio.run(enter(scope, Keyring(KeySettings(), service.store)))

    assert scope["path"] == led + path
    assert scope["raw_path"] == (led + path).encode()


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
def test_no_label_breaks_the_service(service: Service, start: str, rest: str) -> None:
    """Whatever the label is, the answer is one of the client's errors."""
    label = {b"x-fal-target-url": (start + rest).encode("latin-1")}
    key = {name.encode(): value.encode() for name, value in AUTHORIZED.items()}
    response = service.client.post(PROXY, json={}, headers=[*label.items(), *key.items()])

    assert response.status_code in (400, 404)
