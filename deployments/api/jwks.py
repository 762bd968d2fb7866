"""Where receivers find the public keys that verify our webhooks: no key is needed."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from deployments.api.dependencies import Services
from deployments.api.reading import add_reading
from deployments.webhooks.signing import jwks, published_keys

PATHS = ("/.well-known/jwks.json", "/rest/.well-known/jwks.json")  # the second is fal's own
MAX_AGE_S = 600


def router(services: Services) -> APIRouter:
    """`/.well-known/jwks.json`."""
    routes = APIRouter()
    document = KeyDocument(services)
    for path in PATHS:
        add_reading(routes, path, document.get, "jwks")
    return routes


class KeyDocument:
    """The published keys as a JSON Web Key Set."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._span_s = services.settings.webhooks.span_s

    async def get(self) -> Response:
        """Every key that may have signed a webhook, or soon will."""
        keys = await published_keys(self._store, self._span_s)
        # Before a first start has made its keys, there is nothing worth remembering.
        caching = f"public, max-age={MAX_AGE_S}" if keys else "no-store"
        return JSONResponse(jwks(keys), headers={"Cache-Control": caching})
