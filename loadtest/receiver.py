"""Receives the webhooks of the requests that were submitted here, and verifies their signatures.

The verification follows fal's documentation and shares no code with the service, which signs.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from gevent.event import AsyncResult
from gevent.pywsgi import WSGIServer

PATH = "/webhook"
LEEWAY_S = 300
SIGNED_HEADERS = ("request-id", "user-id", "timestamp")
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


@dataclass(frozen=True)
class ReceivedWebhook:
    """The first webhook of a request; `at` is a reading of `time.perf_counter`."""

    at: float
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.body)


class WebhookReceiver:
    """A web server at `host:port`, an address that the service can reach."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.url = f"http://{address}{PATH}"
        self._server = WSGIServer((host.strip("[]"), int(port)), self._answer, log=None)
        self._first: dict[str, AsyncResult] = {}

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._server.start()

    def stop(self) -> None:
        self._server.stop(timeout=1)

    def wait(self, request_id: str) -> ReceivedWebhook:
        """The webhook of a request, which may have come before its submit was answered."""
        webhook: ReceivedWebhook = self._result(request_id).get()
        return webhook

    def _answer(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        webhook = ReceivedWebhook(time.perf_counter(), headers_of(environ), body)
        try:
            result = self._result(str(webhook.json()["request_id"]))
            if not result.ready():  # a webhook may be delivered more than once
                result.set(webhook)
            status = "200 OK"
        except (ValueError, KeyError, TypeError):
            status = "400 Bad Request"  # no webhook of the service
        start(status, [("Content-Length", "0")])
        return []

    def _result(self, request_id: str) -> AsyncResult:
        return self._first.setdefault(request_id, AsyncResult())


def headers_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a WSGI request, names in lower case."""
    return {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }


def public_keys(jwks: Mapping[str, Any]) -> list[Ed25519PublicKey]:
    return [Ed25519PublicKey.from_public_bytes(decoded(key["x"])) for key in jwks["keys"]]


def decoded(text: str) -> bytes:
    """base64url, with its padding or without."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def is_genuine(
    headers: Mapping[str, str], body: bytes, keys: Sequence[Ed25519PublicKey], now: float = 0.0
) -> bool:
    """Whether one of the keys signed this body, less than five minutes ago.

    `headers` have names in lower case; `now` is in seconds of the epoch, 0 for this moment.
    """
    try:
        signed = [headers[f"x-fal-webhook-{name}"] for name in SIGNED_HEADERS]
        signature = bytes.fromhex(headers["x-fal-webhook-signature"])
        age_s = (now or time.time()) - int(signed[-1])
    except (KeyError, ValueError):
        return False
    message = "\n".join([*signed, hashlib.sha256(body).hexdigest()]).encode()
    return abs(age_s) <= LEEWAY_S and any(verifies(key, signature, message) for key in keys)


def verifies(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
