"""What a client does when it arrives: one method for each verb of the scenarios."""

import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import gevent
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deployments.florence.tasks import APP
from loadtest.kit import stages
from loadtest.kit.client import Answer, Client
from loadtest.kit.gallery import Gallery
from loadtest.kit.receiver import Delivery, Receiver
from loadtest.kit.scenarios import Item, Verb
from loadtest.kit.signature import public_keys

JWKS = "/.well-known/jwks.json"
FIRST_WEBHOOK_S = 30.0
ALLOW = "do its webhooks.allowed_hosts and allowed_ports let it post there?"
NUM_WATCHED = 50  # queued requests that status calls ask about, the latest
NUM_FIRST = 5  # of them, submitted before the schedule begins


class Refused(Exception):
    """The service has too much to do, and said so."""


class Failed(Exception):
    """No good answer; the message says why, alike for the same reason."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Visit:
    """A visit with a good end, at that reading of `time.perf_counter`."""

    ended: float
    status: int
    request_id: str
    stages: Mapping[str, float] = field(default_factory=dict)


class Visitor:
    """Makes the calls of one generator.

    Args:
        receiver: takes the webhooks, where there are any.
    """

    def __init__(
        self, client: Client, gallery: Gallery, poll_s: float, receiver: Receiver | None = None
    ) -> None:
        self._client = client
        self._gallery = gallery
        self._poll_s = poll_s
        self._receiver = receiver
        self._watched: deque[str] = deque(maxlen=NUM_WATCHED)
        self._rng = random.Random(0)
        self._keys: list[Ed25519PublicKey] = []
        self._verbs = {
            Verb.RUN: self._run,
            Verb.QUEUE: self._queue,
            Verb.STATUS: self._status,
            Verb.WEBHOOK: self._webhook,
        }

    def prepare(self, items: tuple[Item, ...]) -> None:
        """Learn the keys that sign webhooks, and see that one comes; submit what is asked about.

        Raises:
            Refused, Failed, OSError: as for `visit`.
        """
        if self._receiver:
            self._learn_keys()
            self._try_webhook(self._receiver, items[0])
        if any(item.verb is Verb.STATUS for item in items):
            for number in range(NUM_FIRST):
                self._submit(items[0], number)

    def visit(self, item: Item, number: int) -> Visit:
        """Make the `number`th arrival, and say how it ended.

        Raises:
            Refused: 429.
            Failed: anything else but a good answer.
            KeyError: the answer lacks something.
            OSError: no connection, or it was lost.
        """
        return self._verbs[item.verb](item, number)

    def _run(self, item: Item, number: int) -> Visit:
        answer = self._ask("POST", f"/{APP}/{item.task}", self._body(item, number))
        ended = time.perf_counter()
        told(answer)["results"]
        request_id = answer.headers.get("x-fal-request-id", "")
        split = stages.of_run(answer.headers.get("server-timing"))
        return Visit(ended, answer.status, request_id, split)

    def _queue(self, item: Item, number: int) -> Visit:
        request_id = self._submit(item, number)
        status = self._ended(request_id)
        answer = self._ask("GET", path(request_id))
        ended = time.perf_counter()
        told(answer)["results"]
        return Visit(ended, answer.status, request_id, stages.of_queued(status))

    def _status(self, _item: Item, _number: int) -> Visit:
        request_id = self._rng.choice(self._watched)
        answer = self._ask("GET", f"{path(request_id)}/status")
        ended = time.perf_counter()
        told(answer)["status"]
        return Visit(ended, answer.status, request_id)

    def _webhook(self, item: Item, number: int) -> Visit:
        assert self._receiver, "a scenario with webhooks has a receiver"
        query = "?" + urlencode({"fal_webhook": self._receiver.url})
        request_id = self._submit(item, number, query)
        delivery = self._receiver.wait(request_id)
        if not self._is_genuine(delivery):
            raise Failed("a webhook with a wrong signature")
        if (payload := told(delivery))["status"] != "OK":
            raise Failed(f"a webhook that says {payload.get('error', payload['status'])}")
        return Visit(delivery.at, 200, request_id, stages.of_queued(self._ended(request_id)))

    def _try_webhook(self, receiver: Receiver, item: Item) -> None:
        with gevent.Timeout(FIRST_WEBHOOK_S, Failed(f"no webhook came to {receiver.url}: {ALLOW}")):
            self._webhook(item, 0)

    def _is_genuine(self, delivery: Delivery) -> bool:
        """Whether a published key signed it, also one that was published meanwhile."""
        if delivery.is_genuine(self._keys):
            return True
        self._learn_keys()
        return delivery.is_genuine(self._keys)

    def _learn_keys(self) -> None:
        self._keys = public_keys(told(self._ask("GET", JWKS)))

    def _submit(self, item: Item, number: int, query: str = "") -> str:
        url = f"/queue/{APP}/{item.task}{query}"
        request_id = str(told(self._ask("POST", url, self._body(item, number)))["request_id"])
        self._watched.append(request_id)
        return request_id

    def _ended(self, request_id: str) -> dict[str, Any]:
        """The COMPLETED status, asked for as often as fal's client does."""
        while True:
            status = told(self._ask("GET", f"{path(request_id)}/status?logs=1"))
            if status["status"] == "COMPLETED":
                return status
            gevent.sleep(self._poll_s)

    def _ask(self, method: str, url: str, body: bytes = b"") -> Answer:
        answer = self._client.ask(method, url, body)
        if answer.status == 429:
            raise Refused
        if answer.status not in (200, 202):
            raise Failed(complaint(answer), answer.status)
        return answer

    def _body(self, item: Item, number: int) -> bytes:
        shown = self._gallery[item.length]
        return shown[number % len(shown)]


def path(request_id: str) -> str:
    """Where to ask about a queued request."""
    return f"/queue/{APP}/requests/{request_id}"


def told(answer: Answer | Delivery) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        Failed: it is none.
    """
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Failed("an answer that is no JSON object", getattr(answer, "status", 0))
    return found


def complaint(answer: Answer) -> str:
    """An error's status and fal's name for it, which is alike for the same reason."""
    try:
        found = answer.json()
        detail = found["detail"]
        name = detail[0]["type"] if isinstance(detail, list) else found["error_type"]
    except (ValueError, KeyError, TypeError, IndexError):
        return str(answer.status)
    return f"{answer.status} {name}"
