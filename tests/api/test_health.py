"""Routes without a key."""

import asyncio
import base64
from pathlib import Path

import pytest

from deployments.api import health
from deployments.errors import NotReady
from deployments.settings import WebhookSettings
from deployments.telemetry.metrics import METRICS
from deployments.webhooks.signing import SigningKeys

from .service import AwayStore, Serve, Service, do


def test_health_is_about_this_process(serve: Serve) -> None:
    """The process is alive even when the pipeline is not ready."""

    async def never() -> bool:
        return False

    response = serve(ready=never).client.get("/health")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(("is_ready", "status"), [(True, 200), (False, 503)])
def test_ready_asks_the_pipeline(serve: Serve, is_ready: bool, status: int) -> None:
    """Readiness is the pipeline's, asked for each time."""

    async def ready() -> bool:
        return is_ready

    response = serve(ready=ready).client.get("/ready")

    assert response.status_code == status
    assert response.json() == ({"status": "ready"} if is_ready else NotReady().body())


def test_ready_does_not_wait_for_ever(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that does not say is not ready."""
    monkeypatch.setattr(health, "READY_TIMEOUT_S", 0.01)

    async def ready() -> bool:
        await asyncio.Event().wait()
        return True

    assert serve(ready=ready).client.get("/ready").status_code == 503


def test_metrics_are_prometheus_text(service: Service) -> None:
    """Every metric is declared at `/metrics` from the start."""
    response = service.client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain; version=")
    for name in METRICS:
        assert f"# HELP {name} " in response.text


def test_index_points_to_the_rest(service: Service) -> None:
    """The root lists what is here."""
    index = service.client.get("/").json()

    assert "/fal-ai/florence-2-large/region-proposal" in index["endpoints"]
    assert service.client.get(index["openapi"]).status_code == 200


def test_index_says_what_the_demo_is_good_for(service: Service) -> None:
    """Photographs are not, and nothing in an answer shows it."""
    index = service.client.get("/").json()

    assert index["model"] == "demo"
    assert "a photograph is noise" in index["note"]


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/openapi.json"])
def test_head_is_answered(service: Service, path: str) -> None:
    """Probes may send HEAD, and a slash at the end does not matter."""
    assert service.client.head(path).status_code == 200
    assert service.client.get(path.rstrip("/") + "/").status_code == 200


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
def test_no_pages_from_the_framework(service: Service, path: str) -> None:
    """FastAPI's pages load scripts from elsewhere, so they are off."""
    assert service.client.get(path).status_code == 404


def test_metrics_include_the_queue(service: Service) -> None:
    """What waits is read from the store when it is asked for."""
    service.submit()
    text = service.metrics()
    assert 'florence_queue_requests{state="queued"} 1.0' in text
    assert "florence_store_up 1.0" in text


def test_metrics_need_no_store(serve: Serve) -> None:
    """One that is away is a number, not an error."""
    response = serve(store=AwayStore()).client.get("/metrics")
    assert response.status_code == 200
    assert "florence_store_up 0.0" in response.text


PATHS = ["/.well-known/jwks.json", "/rest/.well-known/jwks.json", "/.well-known/jwks.json/"]


@pytest.fixture
def folder(service: Service, tmp_path: Path) -> SigningKeys:
    """The keys that sign the service's webhooks."""
    return SigningKeys(WebhookSettings(keys=str(tmp_path / "keys")), service.store)


@pytest.mark.parametrize("path", PATHS)
def test_the_published_keys(service: Service, folder: SigningKeys, path: str) -> None:
    """The active key and the next one need no key, and may be cached for some minutes."""
    keys = do(folder.ensure())
    response = service.client.get(path)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "public, max-age=600"
    published = {each["kid"]: each for each in response.json()["keys"]}
    assert list(published) == [key.kid for key in keys]
    for key in keys:
        public = key.private.public_key().public_bytes_raw()
        assert base64.urlsafe_b64decode(published[key.kid]["x"]) == public
        assert published[key.kid]["crv"] == "Ed25519"
        assert "d" not in published[key.kid]


def test_a_retired_key_is_published(service: Service, folder: SigningKeys) -> None:
    """Webhooks that it has signed may be under way."""
    [old, new] = do(folder.ensure())
    do(folder.rotate(early=True))
    kids = [each["kid"] for each in service.client.get(PATHS[0]).json()["keys"]]

    assert (kids[0], kids[-1], len(kids)) == (new.kid, old.kid, 3)


def test_missing_keys_are_not_cached(service: Service) -> None:
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
