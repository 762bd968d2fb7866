"""What browsers may do from another origin."""

import pytest

from .service import CAPTION, QUEUED, Serve, Service

ORIGIN = "https://app.example.com"


@pytest.mark.parametrize("path", [CAPTION, "/api/fal/proxy", "/cdn/files/x", "/health", "/nope"])
def test_preflight_is_answered_everywhere(service: Service, path: str) -> None:
    """A browser may ask on every route, and learns methods and headers."""
    asked = "authorization,content-type,x-fal-tags,x-made-up"
    response = service.client.options(
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


def test_preflight_lists_what_the_clients_send(service: Service) -> None:
    """Who does not say which headers learns all that fal's clients use."""
    accepted = service.client.options(CAPTION).headers["access-control-allow-headers"]

    sent = {"authorization", "content-type", "x-fal-target-url", "idempotency-key"}
    assert sent <= set(accepted.split(", "))


@pytest.mark.parametrize(("origin", "allowed"), [(ORIGIN, ORIGIN), ("https://evil.com", None)])
def test_origins_can_be_listed(serve: Serve, origin: str, allowed: str | None) -> None:
    """With a list of origins, only those are allowed, and caches are told."""
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
def test_the_queue_may_be_asked_from_any_page(service: Service, what: str) -> None:
    """A browser may read what the queue says, its events and its errors alike, and its headers."""
    request_id = service.submit().json()["request_id"]
    service.cancel(request_id)
    for known in (request_id, "nope"):
        response = service.get(f"{QUEUED}/{known}{what}", Origin=ORIGIN)

        assert response.headers["access-control-allow-origin"] == "*"
        assert "idempotent-replayed" in response.headers["access-control-expose-headers"]
