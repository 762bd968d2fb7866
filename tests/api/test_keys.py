"""API keys: who gets in, and what the others are told."""

import pytest

from deployments.settings import hash_key

from .service import CAPTION, KEY, Serve, Service

MISSING = (
    "Cannot access application 'fal-ai/florence-2-large'. "
    "Authentication is required to access this application."
)
MALFORMED = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
WRONG = "No user found for Key ID and Secret"
BODY = {"image_url": "u"}


@pytest.mark.parametrize(
    "header",
    [f"Key {KEY}", f"key {KEY}", f"KEY  {KEY}", f"Bearer {KEY}", f"bearer {KEY}", f" Key {KEY} "],
)
def test_a_key_lets_in(service: Service, header: str) -> None:
    """Both schemes are taken in any case, with any space around the key."""
    response = service.client.post(CAPTION, json=BODY, headers={"Authorization": header})

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, MISSING),
        ({"Authorization": ""}, MALFORMED),
        ({"Authorization": "Key"}, MALFORMED),
        ({"Authorization": "Key  "}, MALFORMED),
        ({"Authorization": KEY}, MALFORMED),
        ({"Authorization": f"Basic {KEY}"}, MALFORMED),
        ({"Authorization": "Key kid:other"}, WRONG),
        ({"Authorization": f"Key {KEY}x"}, WRONG),
        ({"Authorization": f"Key {hash_key(KEY)}"}, WRONG),
        ({"Authorization": "Key \xe9"}, WRONG),
    ],
)
def test_others_stay_out(service: Service, headers: dict[str, str], detail: str) -> None:
    """A key that is missing, malformed or wrong is a 401 with fal's sentence, and nothing runs."""
    encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    response = service.client.post(CAPTION, json=BODY, headers=encoded)

    assert response.status_code == 401
    assert response.json() == {"detail": detail, "error_type": "unauthorized"}
    assert response.headers["x-fal-error-type"] == "unauthorized"
    assert service.runs == []


def test_key_is_checked_before_the_body_is_read(service: Service) -> None:
    """A stranger's body costs nothing: not even its mistakes are seen."""
    response = service.client.post(CAPTION, content=b"{")

    assert response.status_code == 401


def test_any_of_the_keys_lets_in(serve: Serve) -> None:
    """Each hash counts, in whichever case it was written."""
    service = serve(keys={"hashes": [hash_key("other"), hash_key(KEY).upper()]})

    assert service.post(BODY).status_code == 200


def test_without_keys_nobody_gets_in(serve: Serve) -> None:
    """A service that knows no key refuses every one."""
    assert serve(keys={"hashes": []}).post(BODY).status_code == 401


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/openapi.json"])
def test_public_pages_need_no_key(service: Service, path: str) -> None:
    """Probes, scrapers and tools come without a key."""
    assert service.client.get(path).status_code == 200


def test_preflight_needs_no_key(service: Service) -> None:
    """Browsers send no key with OPTIONS."""
    assert service.client.options(CAPTION).status_code == 204
