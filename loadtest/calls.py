"""What a client does for each verb of the scenarios, and how its calls end."""

import json
import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import gevent
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from geventhttpclient import HTTPClient

from deployments.florence.tasks import APP
from loadtest import stages
from loadtest.images import Bodies
from loadtest.receiver import ReceivedWebhook, WebhookReceiver, is_genuine, public_keys
from loadtest.scenarios import ScenarioCall, Verb

JWKS = "/.well-known/jwks.json"
FIRST_WEBHOOK_S = 30.0
ALLOW = "do its webhooks.allowed_hosts and allowed_ports let it post there?"
POLL_S = 0.1  # as fal's Python client
NUM_WATCHED = 50  # queued requests that status calls ask about, the latest
NUM_FIRST = 5  # of them, submitted before the first arrival
MANY_CONNECTIONS = 20_000  # more than a process may have open files


class TooBusy(Exception):
    """The service answered 429."""


class BadAnswer(Exception):
    """No good answer; the message says why, alike for the same reason."""


@dataclass(frozen=True)
class GoodAnswer:
    """The end of a call, a reading of `time.perf_counter`, and the stages' seconds."""

    ended: float
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class HttpAnswer:
    """A response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.body)


class LoadClient:
    """Calls the service at `url` with `key`.

    A connection is opened when none is idle, so no request waits here for another's answer.
    """

    def __init__(
        self,
        url: str,
        key: str,
        timeout_s: float,
        bodies: Bodies,
        receiver: WebhookReceiver | None = None,
    ) -> None:
        self._prefix = urlsplit(url).path.rstrip("/")
        self._headers = {"Authorization": f"Key {key}", "Content-Type": "application/json"}
        self._http = HTTPClient.from_url(
            url,
            concurrency=MANY_CONNECTIONS,
            connection_timeout=timeout_s,
            network_timeout=timeout_s,
        )
        self._bodies = bodies
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

    def make(self, call: ScenarioCall, number: int) -> GoodAnswer:
        """Make the `number`th arrival.

        Raises:
            TooBusy: 429.
            BadAnswer: anything else but a good answer.
            KeyError: the answer lacks something.
            OSError: no connection, or it was lost.
            HTTPParseError: the answer is no HTTP.
        """
        return self._verbs[call.verb](call, number)

    def prepare(self, calls: tuple[ScenarioCall, ...]) -> None:
        """Try a webhook, and submit the first requests that status calls ask about.

        Raises:
            TooBusy, BadAnswer, KeyError, OSError: as for `make`.
        """
        if self._receiver:
            no_webhook = BadAnswer(f"no webhook came to {self._receiver.url}: {ALLOW}")
            with gevent.Timeout(FIRST_WEBHOOK_S, no_webhook):
                self._webhook(calls[0], 0)
        if any(call.verb is Verb.STATUS for call in calls):
            for number in range(NUM_FIRST):
                self._submit(calls[0], number)

    def close(self) -> None:
        self._http.close()

    def _run(self, call: ScenarioCall, number: int) -> GoodAnswer:
        answer = self._ask("POST", f"/{APP}/{call.task}", self._body(call, number))
        ended = time.perf_counter()
        json_object(answer)["results"]
        return GoodAnswer(ended, stages.of_run(answer.headers.get("server-timing")))

    def _queue(self, call: ScenarioCall, number: int) -> GoodAnswer:
        request_id = self._submit(call, number)
        status = self._completed(request_id)
        answer = self._ask("GET", path(request_id))
        ended = time.perf_counter()
        json_object(answer)["results"]
        return GoodAnswer(ended, stages.of_queued(status))

    def _status(self, _call: ScenarioCall, _number: int) -> GoodAnswer:
        request_id = self._rng.choice(self._watched)
        answer = self._ask("GET", f"{path(request_id)}/status")
        ended = time.perf_counter()
        json_object(answer)["status"]
        return GoodAnswer(ended)

    def _webhook(self, call: ScenarioCall, number: int) -> GoodAnswer:
        assert self._receiver, "a scenario with webhooks has a receiver"
        query = "?" + urlencode({"fal_webhook": self._receiver.url})
        request_id = self._submit(call, number, query)
        webhook = self._receiver.wait(request_id)
        if not self._is_genuine(webhook):
            raise BadAnswer("a webhook with a wrong signature")
        if (payload := json_object(webhook))["status"] != "OK":
            raise BadAnswer(f"a webhook that says {payload.get('error', payload['status'])}")
        return GoodAnswer(webhook.at, stages.of_queued(self._completed(request_id)))

    def _is_genuine(self, webhook: ReceivedWebhook) -> bool:
        """Whether a published key signed it; a key may have been published meanwhile."""
        if is_genuine(webhook.headers, webhook.body, self._keys):
            return True
        self._keys = public_keys(json_object(self._ask("GET", JWKS)))
        return is_genuine(webhook.headers, webhook.body, self._keys)

    def _submit(self, call: ScenarioCall, number: int, query: str = "") -> str:
        answer = self._ask("POST", f"/queue/{APP}/{call.task}{query}", self._body(call, number))
        request_id = str(json_object(answer)["request_id"])
        self._watched.append(request_id)
        return request_id

    def _completed(self, request_id: str) -> dict[str, Any]:
        """The COMPLETED status, asked for as often as fal's client does."""
        while True:
            status = json_object(self._ask("GET", f"{path(request_id)}/status?logs=1"))
            if status["status"] == "COMPLETED":
                return status
            gevent.sleep(POLL_S)

    def _ask(self, method: str, url: str, body: bytes = b"") -> HttpAnswer:
        response = self._http.request(method, self._prefix + url, body, self._headers)
        try:
            content = bytes(response.read())
            headers = {str(name).lower(): str(value) for name, value in response.items()}
            answer = HttpAnswer(int(response.status_code), headers, content)
        finally:
            response.release()
        if answer.status == 429:
            raise TooBusy
        if answer.status not in (200, 202):
            raise BadAnswer(complaint(answer))
        return answer

    def _body(self, call: ScenarioCall, number: int) -> bytes:
        bodies = self._bodies[call.length]
        return bodies[number % len(bodies)]


def path(request_id: str) -> str:
    return f"/queue/{APP}/requests/{request_id}"


def json_object(answer: HttpAnswer | ReceivedWebhook) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        BadAnswer: it is none.
    """
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadAnswer("an answer that is no JSON object")
    return found


def complaint(answer: HttpAnswer) -> str:
    """An error's status and fal's name for it, which is alike for the same reason."""
    try:
        found = answer.json()
        detail = found["detail"]
        name = detail[0]["type"] if isinstance(detail, list) else found["error_type"]
    except (ValueError, KeyError, TypeError, IndexError):
        return str(answer.status)
    return f"{answer.status} {name}"
