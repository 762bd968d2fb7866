"""Takes the webhooks of the requests that this generator has submitted."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from gevent.event import AsyncResult
from gevent.pywsgi import WSGIServer

from loadtest.kit.signature import is_genuine

PATH = "/webhook"
Start = Callable[[str, list[tuple[str, str]]], Any]


@dataclass(frozen=True)
class Delivery:
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

    def is_genuine(self, keys: Sequence[Ed25519PublicKey]) -> bool:
        """Whether one of these keys signed it."""
        return is_genuine(self.headers, self.body, keys)


class Receiver:
    """A web server at `host:port`, which is where the service is told to deliver to."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.url = f"http://{address}{PATH}"
        self._server = WSGIServer((host.strip("[]"), int(port)), self._answer, log=None)
        self._first: dict[str, AsyncResult] = {}
        self._counts: Counter[str] = Counter()

    @property
    def num_repeated(self) -> int:
        """Requests of which it was told more than once."""
        return sum(count > 1 for count in self._counts.values())

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._server.start()

    def stop(self) -> None:
        """Listen no more."""
        self._server.stop(timeout=1)

    def wait(self, request_id: str) -> Delivery:
        """The webhook of a request, which may have come before its submit was answered."""
        delivery: Delivery = self._result(request_id).get()
        return delivery

    def _answer(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        delivery = Delivery(time.perf_counter(), headers_of(environ), body)
        try:
            self._take(delivery, str(delivery.json()["request_id"]))
            status = "200 OK"
        except (ValueError, KeyError, TypeError):
            status = "400 Bad Request"  # not a webhook of ours
        start(status, [("Content-Length", "0")])
        return []

    def _take(self, delivery: Delivery, request_id: str) -> None:
        self._counts[request_id] += 1
        if self._counts[request_id] == 1:
            self._result(request_id).set(delivery)

    def _result(self, request_id: str) -> AsyncResult:
        return self._first.setdefault(request_id, AsyncResult())


def headers_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a request as WSGI tells them, names in lower case."""
    return {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
