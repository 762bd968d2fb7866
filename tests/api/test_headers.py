"""What request headers ask: the lifecycle of files, and the URL that callers see."""

import math

import pytest
from starlette.requests import Request

from deployments.api.headers import LIFECYCLE_HEADERS, base_url, files_ttl_s, queue_url
from deployments.errors import BadRequest

from .service import Serve, Service

BODY = {"image_url": "u"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "http://testserver"),
        ({"Host": "florence.example.com:8443"}, "http://florence.example.com:8443"),
        ({"Host": "[::1]:8000"}, "http://[::1]:8000"),
        ({"X_Forwarded_Proto": "https"}, "https://testserver"),
        (
            {"X_Forwarded_Proto": "https, http", "X_Forwarded_Host": "a.example, b.internal"},
            "https://a.example",
        ),
        ({"X_Forwarded_Proto": "javascript"}, "http://testserver"),
        ({"X_Forwarded_Host": "a.example/path?x"}, "http://testserver"),
        ({"X_Forwarded_Host": 'a"onerror=b'}, "http://testserver"),
    ],
)
def test_address_is_what_the_caller_used(
    shared: Service, headers: dict[str, str], expected: str
) -> None:
    """The proxy in front says scheme and host, else the request does; nonsense is not repeated."""
    shared.post(BODY, **headers)

    assert shared.runs[-1].base_url == expected


def test_public_url_wins(serve: Serve) -> None:
    """The operator's word counts before any header."""
    service = serve(ingress={"public_url": "https://florence.example.com/base/"})
    service.post(BODY, X_Forwarded_Host="other.example")

    assert service.runs[0].base_url == "https://florence.example.com/base"


def test_picture_is_found_at_its_address(service: Service) -> None:
    """A picture that a run stored is downloaded from the run's base URL."""
    service.post(BODY)
    file = service.files.put(b"picture", "image/png")

    response = service.client.get(f"{service.runs[0].base_url}/cdn/files/{file.name}")

    assert response.content == b"picture"


def test_a_request_without_a_host_has_an_address(service: Service) -> None:
    """HTTP/1.0 knows no Host; the URLs are whole all the same."""
    scope = {"type": "http", "scheme": "http", "path": "/", "headers": [], "state": {}}

    assert base_url(Request(scope), None) == "http://localhost"
    assert queue_url(Request(scope), None) == "http://localhost/queue"


@pytest.mark.parametrize("header", LIFECYCLE_HEADERS)
@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ('{"expiration_duration_seconds": 3600}', 3600.0),
        ('{"expiration_duration_seconds": null}', math.inf),
        ('{"expiration_duration_seconds": 0}', math.inf),
        ('{"initial_acl": {"default": "hide"}}', None),
        ('{"expiration_duration_seconds": 60, "initial_acl": {"default": "hide"}}', 60.0),
        ("{}", None),
    ],
)
def test_a_wish_is_read(header: str, wish: str, expected: float | None) -> None:
    """Whole seconds; null is for ever; without a word there is no wish."""
    assert files_ttl_s({header: wish}) == expected


def test_nothing_is_no_wish() -> None:
    """Without a header the settings decide."""
    assert files_ttl_s({}) is None


@pytest.mark.parametrize(
    "wish",
    [
        "",
        "3600",
        "[]",
        "{",
        '{"expiration_duration_seconds": -1}',
        '{"expiration_duration_seconds": "60"}',
        '{"expiration_duration_seconds": true}',
        '{"expiration_duration_seconds": 1.5}',
    ],
)
def test_what_cannot_be_read_is_refused(wish: str) -> None:
    """A wish is not dropped in silence."""
    with pytest.raises(BadRequest, match="x-fal-object-lifecycle must be JSON"):
        files_ttl_s({LIFECYCLE_HEADERS[0]: wish})
