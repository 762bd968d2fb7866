"""Delivers webhooks: at least once each, signed anew each time, ever further apart.

A delivery whose lease is over is made again, so a receiver may hear of a request twice, for
example when this process dies between the answer and its note; receivers tell by the request id.
How a body is posted is `post`'s business.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from deployments.errors import StoreUnavailable
from deployments.net.client import CallFailed
from deployments.net.url import CallRefused
from deployments.settings import WebhookSettings
from deployments.telemetry.log import Fields, about, logger
from deployments.telemetry.metrics import Recorder
from deployments.telemetry.tracing import OFF, Tracer
from deployments.webhooks.pem import PrivateKey
from deployments.webhooks.signing import signed_headers
from deployments.webhooks.webhook import Webhook, WebhookStore

MAX_RUNNING = 64  # nearly all of a delivery is waiting for a receiver
LEASE_SLACK_S = 15.0  # beyond a delivery's own time, to note what came of it
CLAIM_EVERY_S = 0.5
JITTER = 0.1  # receivers that went away together are not all called again together

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]


class Signer(Protocol):
    """Knows what to sign with."""

    async def key(self) -> PrivateKey:
        """The key to sign with now."""


@dataclass(frozen=True)
class Answer:
    """What came of one delivery: delivered without `error`; `is_final` when no other may help."""

    status: int | None = None
    error: str | None = None
    is_final: bool = False


class Deliverer:
    """Several may run at once, on several machines.

    Args:
        post: gives the HTTP status of an answer; raises CallFailed, or CallRefused for good.
        clock: the time that is signed; receivers allow it to be five minutes off.
    """

    def __init__(
        self,
        store: WebhookStore,
        signer: Signer,
        post: Post,
        settings: WebhookSettings,
        recorder: Recorder,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        tracer: Tracer = OFF,
    ) -> None:
        self._store = store
        self._signer = signer
        self._post = post
        self._settings = settings
        self._recorder = recorder
        self._clock = clock
        self._rng = rng or random.Random()
        self._tracer = tracer

    async def round(self) -> int:
        """Deliver what is due until nothing is, and say how many deliveries that were.

        A slow receiver holds up no other: while it is waited for, more are claimed.

        Raises:
            SetupError: there is no key to sign with; nothing was claimed.
            StoreUnavailable: the store does not say what is due.
        """
        running: set[asyncio.Task[None]] = set()
        num_begun = 0
        try:
            while True:
                begun = await self._begin(running)
                num_begun += len(begun)
                running |= begun
                if not running:
                    return num_begun
                running = await self._progress(running)
        finally:
            await stop(running)

    async def _begin(self, running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """As many more deliveries as there is room for."""
        room = MAX_RUNNING - len(running)
        if room == 0:
            return set()
        try:
            key = await self._signer.key()
            lease_s = self._settings.timeout_s + LEASE_SLACK_S
            claimed = await self._store.claim_webhooks(room, lease_s)
        except StoreUnavailable:
            if not running:
                raise
            return set()  # what is under way is brought to its end first
        return {
            asyncio.create_task(self._deliver(webhook, key), name=f"webhook-{webhook.id}")
            for webhook in claimed
        }

    async def _progress(self, running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Those still running after one has come to its end, or after a moment."""
        done, running = await asyncio.wait(
            running, timeout=CLAIM_EVERY_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
        return running

    async def _deliver(self, webhook: Webhook, key: PrivateKey) -> None:
        """One delivery, and the note of what came of it."""
        with self._tracer.span(
            "webhook", webhook.trace, "client", request_id=webhook.id, attempt=webhook.attempts
        ) as span:
            answer = await self._call(webhook, key, span.trace)
            retry_s = self._retry_s(webhook, answer)
            span.note(status=answer.status, outcome=outcome_of(answer, retry_s))
        try:
            await self._store.record_delivery(
                webhook.id,
                webhook.token,
                status=answer.status,
                error=answer.error,
                retry_s=retry_s,
            )
        except StoreUnavailable:
            after = "its delivery could not be noted"
            logger.warning("webhook %s: %s", webhook.id, after, extra=extra_of(webhook))
            return  # it is delivered again when its lease is over
        self._tell(webhook, answer, retry_s)

    async def _call(self, webhook: Webhook, key: PrivateKey, trace: str) -> Answer:
        if webhook.attempts > self._settings.max_attempts:
            return Answer(webhook.last_status, "its last deliveries were broken off by us", True)
        body = webhook.body.encode()
        now = int(self._clock())
        headers = signed_headers(webhook.id, webhook.key_id, now, body, key)
        if trace:
            headers["traceparent"] = trace
        begun = time.perf_counter()
        try:
            return judge(await self._post(webhook.url, body, headers))
        except CallRefused as error:
            return Answer(error=str(error), is_final=True)
        except CallFailed as error:
            return Answer(error=str(error))
        finally:
            took_s = time.perf_counter() - begun
            self._recorder.record("florence_dispatcher_webhook_seconds", took_s)

    def _retry_s(self, webhook: Webhook, answer: Answer) -> float | None:
        """When to deliver again; None for never."""
        tries = self._settings.max_attempts
        if answer.error is None or answer.is_final or webhook.attempts >= tries:
            return None
        jitter = self._rng.uniform(1 - JITTER, 1 + JITTER)
        return gap_s(webhook.attempts, tries, self._settings.span_s) * jitter

    def _tell(self, webhook: Webhook, answer: Answer, retry_s: float | None) -> None:
        """Leave a trace for the operator; never the URL, in which there may be a secret."""
        outcome = outcome_of(answer, retry_s)
        self._recorder.record("florence_dispatcher_webhooks_total", outcome=outcome)
        if outcome == "retried":
            after = f"attempt {webhook.attempts}: {answer.error}; next in {retry_s:.0f} s"
            logger.info("webhook %s: %s", webhook.id, after, extra=extra_of(webhook))
        if outcome == "dead":
            after = f"given up after attempt {webhook.attempts}: {answer.error}"
            logger.warning("webhook %s: %s", webhook.id, after, extra=extra_of(webhook))


def extra_of(webhook: Webhook) -> Fields:
    """The fields of a log line about a delivery."""
    return about(webhook.id, webhook.key_id, webhook.trace, attempt=webhook.attempts)


def judge(status: int) -> Answer:
    """What an answer with this status means; a redirect is not followed, now or later."""
    if 200 <= status < 300:
        return Answer(status)
    if 300 <= status < 400:
        return Answer(status, f"the receiver redirects ({status})", is_final=True)
    return Answer(status, f"the receiver answered {status}")


def outcome_of(answer: Answer, retry_s: float | None) -> str:
    """The metric's word for it."""
    if answer.error is None:
        return "delivered"
    return "dead" if retry_s is None else "retried"


def gap_s(attempt: int, max_attempts: int, span_s: float) -> float:
    """The time between `attempt`, from 1, and the one after it.

    The gaps grow as 1, 4, 9, … and together make `span_s`: by default from 19 seconds, about a
    receiver's restart, to half an hour.
    """
    return span_s * attempt**2 / sum(number**2 for number in range(1, max_attempts))


async def stop(tasks: set[asyncio.Task[None]]) -> None:
    """Break off what is under way; its leases run out."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
