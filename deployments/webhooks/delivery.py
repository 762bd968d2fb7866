"""Delivers webhooks: at least once each, with a new signature for each attempt.

When the lease of a delivery expires, for example because this process died before it recorded the
receiver's answer, the webhook is sent again. Receivers recognise it by its request id.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping

from deployments.errors import SetupError, StoreUnavailable
from deployments.net.guard import CallRefused
from deployments.net.guarded_client import CallFailed
from deployments.settings import WebhookSettings
from deployments.telemetry.log import about, logger
from deployments.telemetry.metrics import Recorder
from deployments.telemetry.tracing import OFF, Tracer, set_attributes, traceparent
from deployments.webhooks.signing import PrivateKey, SigningKeys, signed_headers
from deployments.webhooks.webhook import DeliveryResult, Webhook, WebhookState, WebhookStore

MAX_CONCURRENT = 64  # a delivery mostly waits for its receiver
LEASE_SLACK_S = 15.0  # beyond the timeout of the HTTP call, to record its result
CLAIM_INTERVAL_S = 0.5  # while deliveries are under way
IDLE_INTERVAL_S = 1.0
SETUP_INTERVAL_S = 30.0
JITTER = 0.1  # spreads the retries to receivers that failed together

OUTCOMES = {  # the metric's labels
    WebhookState.DELIVERED: "delivered",
    WebhookState.PENDING: "retried",
    WebhookState.DEAD: "dead",
}

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]


class WebhookSender:
    """Delivers the webhooks of `store`. Several senders may run at once, on several machines.

    Args:
        post: sends a body, returns the HTTP status; raises CallFailed, or CallRefused for good.
        clock: the time that is signed; receivers accept five minutes of difference.
    """

    def __init__(
        self,
        store: WebhookStore,
        keys: SigningKeys,
        post: Post,
        settings: WebhookSettings,
        recorder: Recorder,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        tracer: Tracer = OFF,
    ) -> None:
        self._store = store
        self._keys = keys
        self._post = post
        self._settings = settings
        self._recorder = recorder
        self._clock = clock
        self._rng = rng or random.Random()
        self._tracer = tracer

    async def deliver_forever(self) -> None:
        while True:
            try:
                await self.deliver_due()
            except StoreUnavailable:
                pass  # the next round asks again
            except SetupError as error:  # only webhooks need the keys: jobs go on
                logger.error("no webhook is delivered: %s", error)
                await asyncio.sleep(SETUP_INTERVAL_S)
            await asyncio.sleep(IDLE_INTERVAL_S)

    async def deliver_due(self) -> int:
        """Deliver until nothing is due, and return the number of attempts.

        A slow receiver does not delay others: meanwhile more webhooks are claimed.

        Raises:
            SetupError: there is no key to sign with; nothing was claimed.
            StoreUnavailable: the store cannot say what is due, and nothing is under way.
        """
        running: set[asyncio.Task[None]] = set()
        num_attempts = 0
        try:
            while True:
                started = await self._start(running)
                num_attempts += len(started)
                running |= started
                if not running:
                    return num_attempts
                done, running = await asyncio.wait(
                    running, timeout=CLAIM_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        finally:  # the leases of cancelled deliveries expire
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _start(self, running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Claim webhooks up to the limit, and start their deliveries."""
        limit = MAX_CONCURRENT - len(running)
        if limit == 0:
            return set()
        try:
            key = await self._keys.current()
            lease_s = self._settings.timeout_s + LEASE_SLACK_S
            claimed = await self._store.claim_webhooks(limit, lease_s)
        except StoreUnavailable:
            if not running:
                raise
            return set()
        return {
            asyncio.create_task(self._deliver(webhook, key), name=f"webhook-{webhook.id}")
            for webhook in claimed
        }

    async def _deliver(self, webhook: Webhook, key: PrivateKey) -> None:
        with self._tracer.span(
            "webhook", webhook.trace, "client", request_id=webhook.id, attempt=webhook.attempts
        ) as span:
            result = await self._call(webhook, key, traceparent(span))
            outcome = OUTCOMES[result.state]
            set_attributes(span, status=result.status, outcome=outcome)
        try:
            await self._store.record_delivery(webhook.id, webhook.token, result)
        except StoreUnavailable:  # it is sent again when its lease expires
            log(webhook, "its delivery could not be noted", logger.warning)
            return
        self._recorder.record("florence_dispatcher_webhooks_total", outcome=outcome)
        if result.state is WebhookState.PENDING:
            said = f"attempt {webhook.attempts}: {result.error}; next in {result.retry_s:.0f} s"
            log(webhook, said, logger.info)
        if result.state is WebhookState.DEAD:
            said = f"given up after attempt {webhook.attempts}: {result.error}"
            log(webhook, said, logger.warning)

    async def _call(self, webhook: Webhook, key: PrivateKey, trace: str) -> DeliveryResult:
        if webhook.attempts > self._settings.max_attempts:
            error = "its last deliveries were broken off by us"
            return DeliveryResult(webhook.last_status, error)
        body = webhook.body.encode()
        headers = signed_headers(webhook.id, webhook.key_id, int(self._clock()), body, key)
        if trace:
            headers["traceparent"] = trace
        started = time.perf_counter()
        try:
            status = await self._post(webhook.url, body, headers)
        except CallRefused as refused:
            return DeliveryResult(error=str(refused))
        except CallFailed as failed:
            return DeliveryResult(error=str(failed), retry_s=self._retry_s(webhook))
        finally:
            seconds = time.perf_counter() - started
            self._recorder.record("florence_dispatcher_webhook_seconds", seconds)
        if 200 <= status < 300:
            return DeliveryResult(status)
        if 300 <= status < 400:
            return DeliveryResult(status, f"the receiver redirects ({status})")
        return DeliveryResult(status, f"the receiver answered {status}", self._retry_s(webhook))

    def _retry_s(self, webhook: Webhook) -> float | None:
        """Seconds until the next attempt; None when this was the last one."""
        max_attempts = self._settings.max_attempts
        if webhook.attempts >= max_attempts:
            return None
        jitter = self._rng.uniform(1 - JITTER, 1 + JITTER)
        return retry_delay_s(webhook.attempts, max_attempts, self._settings.span_s) * jitter


def retry_delay_s(attempt: int, max_attempts: int, span_s: float) -> float:
    """Seconds between `attempt`, from 1, and the next one, without jitter.

    The delays grow as 1, 4, 9, … and sum up to `span_s`: by default from 19 seconds, about a
    receiver's restart, to half an hour.
    """
    return span_s * attempt**2 / sum(number**2 for number in range(1, max_attempts))


def log(webhook: Webhook, said: str, write: Callable[..., None]) -> None:
    """Log a line without the URL, which may contain a secret."""
    extra = about(webhook.id, webhook.key_id, webhook.trace, attempt=webhook.attempts)
    write("webhook %s: %s", webhook.id, said, extra=extra)
