"""The address that callers see."""

import pytest
from starlette.requests import Request

from deployments.api import headers as orders

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
    service: Service, headers: dict[str, str], expected: str
) -> None:
    """The proxy in front says scheme and host, else the request does; nonsense is not repeated."""
    service.post(BODY, **headers)

    assert service.runs[0].base_url == expected


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

    assert orders.base_url(Request(scope), None) == "http://localhost"
    assert orders.queue_url(Request(scope), None) == "http://localhost/queue"
