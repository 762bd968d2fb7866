"""A receiver of webhooks on loopback, which fails and restarts as a real one does."""

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

LEEWAY_S = 300
TIMEOUT_S = 60


@dataclass(frozen=True)
class Delivery:
    """One delivery and the status of its answer; header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    answer: int

    @property
    def message(self) -> dict[str, Any]:
        """The body as JSON."""
        message: dict[str, Any] = json.loads(self.body)
        return message


class Receiver:
    """Listens on one port from `start` to `stop`, as often as wanted.

    `failures` says how many deliveries to a path are answered 500 before one is accepted.
    """

    def __init__(self) -> None:
        self.port = 0
        self.failures: Counter[str] = Counter()
        self._deliveries: list[Delivery] = []
        self._arrival = threading.Condition()

    def url(self, path: str) -> str:
        """Where to deliver to."""
        return f"http://127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        """Listen: the first time on a free port, then on the same one."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler_of(self))
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="receiver"
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def accept(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Remember a delivery, and say with which status to answer it."""
        with self._arrival:
            answer = 500 if self.failures[path] > 0 else 200
            self.failures[path] -= 1
            self._deliveries.append(Delivery(path, headers, body, answer))
            self._arrival.notify_all()
        return answer

    def deliveries(self, path: str, number: int = 1) -> list[Delivery]:
        """Wait for at least `number` deliveries to `path`."""

        def arrived() -> list[Delivery]:
            found = [delivery for delivery in self._deliveries if delivery.path == path]
            return found if len(found) >= number else []

        with self._arrival:
            found = self._arrival.wait_for(arrived, TIMEOUT_S)
        assert found, f"{number} deliveries to {path} were expected: {self._deliveries}"
        return found


def handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    """A handler that hands deliveries to `receiver`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(receiver.accept(self.path, headers, body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler


def verify_webhook_signature(delivery: Delivery, jwks_url: str) -> bool:
    """The steps of fal's published verifier, with our JWKS in the place of theirs."""
    request_id = delivery.headers["x-fal-webhook-request-id"]
    user_id = delivery.headers["x-fal-webhook-user-id"]
    timestamp = delivery.headers["x-fal-webhook-timestamp"]
    signature_hex = delivery.headers["x-fal-webhook-signature"]

    if abs(int(time.time()) - int(timestamp)) > LEEWAY_S:
        return False
    message_parts = [request_id, user_id, timestamp, hashlib.sha256(delivery.body).hexdigest()]
    message = "\n".join(message_parts).encode("utf-8")
    signature = bytes.fromhex(signature_hex)
    for key_info in httpx2.get(jwks_url, trust_env=False).json()["keys"]:
        public_key = base64.urlsafe_b64decode(key_info["x"])
        try:
            VerifyKey(public_key).verify(message, signature)
        except BadSignatureError:
            continue
        return True
    return False
