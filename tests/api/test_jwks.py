"""Where receivers find the keys that verify webhooks."""

import base64
from pathlib import Path

import pytest

from deployments.settings import WebhookSettings
from deployments.webhooks.signing import SigningKeys

from .service import Serve, Service, do

PATHS = ["/.well-known/jwks.json", "/rest/.well-known/jwks.json", "/.well-known/jwks.json/"]


@pytest.fixture
def keys(service: Service, tmp_path: Path) -> SigningKeys:
    """The keys that sign the service's webhooks."""
    return SigningKeys(WebhookSettings(keys=str(tmp_path / "keys")), service.store)


@pytest.mark.parametrize("path", PATHS)
def test_the_published_keys(service: Service, keys: SigningKeys, path: str) -> None:
    """Anybody may read the active key and the next one, for some minutes from a cache."""
    made = do(keys.ensure())
    response = service.client.get(path)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "public, max-age=600"
    told = {each["kid"]: each for each in response.json()["keys"]}
    assert list(told) == [key.kid for key in made]
    for key in made:
        public = key.private.public_key().public_bytes_raw()
        assert base64.urlsafe_b64decode(told[key.kid]["x"]) == public
        assert told[key.kid]["crv"] == "Ed25519"
        assert "d" not in told[key.kid]


def test_a_retired_key_is_published(service: Service, keys: SigningKeys) -> None:
    """Webhooks that it has signed may be under way."""
    [old, new] = do(keys.ensure())
    do(keys.rotate(early=True))
    kids = [each["kid"] for each in service.client.get(PATHS[0]).json()["keys"]]

    assert (kids[0], kids[-1], len(kids)) == (new.kid, old.kid, 3)


def test_no_keys_are_not_remembered(service: Service) -> None:
    """A service that has not yet made its keys has them a moment later."""
    response = service.client.get(PATHS[0])

    assert (response.status_code, response.json()) == (200, {"keys": []})
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PATHS)
def test_the_keys_are_for_any_page(serve: Serve, path: str) -> None:
    """They are public, so the list of origins does not hold for them; HEAD is answered too."""
    service = serve(ingress={"cors_origins": ["https://app.example.com"]})
    response = service.client.head(path, headers={"Origin": "https://other.example.com"})

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
