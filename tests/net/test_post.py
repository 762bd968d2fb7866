"""A post reaches what it may, and every hostile host, URL and answer ends as a clear error.

The receivers are real ones on the loopback interface.
They stand for public hosts by way of `allowed_hosts`, so the guard is on in every test.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from deployments.errors import SetupError
from deployments.local.tls import Certificates, certificates
from deployments.net import client as post
from deployments.net.client import CallFailed, Poster
from deployments.net.connect import Resolve
from deployments.net.guard import Address, CallRefused
from deployments.settings import WebhookSettings
from tests.net.receiver import (
    Answer,
    Receiver,
    endless,
    moved,
    raw,
    receiving,
    silent,
    status,
)

pytestmark = pytest.mark.anyio

BODY = b'{"status":"OK"}'
SIGNED = {"X-Fal-Webhook-Request-Id": "r1"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def resolver(**hosts: Sequence[str]) -> Resolve:
    """Resolve like a name server that knows `hosts`, with _ for a dot, and loopback for others."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address(each) for each in hosts.get(host.replace(".", "_"), ["127.0.0.1"])]

    return resolve


def poster(
    *receivers: Receiver,
    resolve: Resolve | None = None,
    ssl_context: ssl.SSLContext | None = None,
    **changes: Any,
) -> Poster:
    """A poster for which `receivers`, under any name, are public."""
    allowed = tuple(f"127.0.0.1:{receiver.port}" for receiver in receivers)
    settings = WebhookSettings(**{"timeout_s": 3.0, "allowed_hosts": allowed} | changes)
    return Poster(settings, resolve=resolve or resolver(), ssl_context=ssl_context)


async def refusal(call: Awaitable[int]) -> str:
    """Why the call may not be made, which is for good."""
    with pytest.raises(CallRefused) as caught:
        await call
    return str(caught.value)


async def failure(call: Awaitable[int]) -> str:
    """Why the call came to nothing, which another may not."""
    with pytest.raises(CallFailed) as caught:
        await call
    assert caught.value.__cause__ is None
    return str(caught.value)


# ---- what must work


async def test_post() -> None:
    """The body arrives byte by byte as given, as JSON, with the headers given and no others."""
    async with receiving(status(200)) as receiver:
        code = await poster(receiver).post(receiver.url(path="/a%20b?c=1#d"), BODY, SIGNED)
    [posted] = receiver.posted

    assert (code, posted.line, posted.body) == (200, "POST /a%20b?c=1 HTTP/1.1", BODY)
    assert posted.headers == {
        "host": f"hooks.example:{receiver.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "user-agent": "florence-serve",
        "x-fal-webhook-request-id": "r1",
    }


@pytest.mark.parametrize("code", [200, 201, 204, 304, 400, 401, 404, 410, 429, 500, 503])
async def test_status(code: int) -> None:
    """Whatever the server answers is told, not judged."""
    async with receiving(raw(b"HTTP/1.1 %d Said\r\n\r\n" % code)) as receiver:
        assert await poster(receiver).post(receiver.url(), BODY, {}) == code


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(code: int) -> None:
    """Nobody leads us to another place, not even to an allowed one."""
    async with (
        receiving(status(200)) as target,
        receiving(moved(target.url(), code)) as receiver,
    ):
        assert await poster(receiver, target).post(receiver.url(), BODY, {}) == code
    assert target.num_connections == 0


async def test_an_allowed_name() -> None:
    """A host that the operator allowed by name and port is reached although it is private."""
    async with receiving(status(200)) as receiver:
        client = poster(allowed_hosts=(f"hooks.default.svc:{receiver.port}",))
        assert await client.post(receiver.url("hooks.default.svc"), BODY, {}) == 200
        assert await refusal(client.post(receiver.url(), BODY, {})) == (
            "the host has no public address"
        )


# ---- hostile hosts and URLs


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0",
        "①②⑦.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "169.254.169.254",
        "100.100.100.200",
    ],
)
async def test_private_addresses(host: str) -> None:
    """No way to write a private address leads to it: the system's resolver has the last word."""
    async with receiving(status(200)) as receiver:
        client = Poster(WebhookSettings(allowed_ports=(receiver.port,), timeout_s=3.0))
        assert await refusal(client.post(receiver.url(host), BODY, {})) in (
            "the host has no public address",
            "the URL is not valid",
        )
    assert receiver.num_connections == 0


@pytest.mark.parametrize("addresses", [["10.96.0.1"], ["93.184.216.34", "10.0.0.1"]])
async def test_names_of_private_addresses(addresses: list[str]) -> None:
    """A name is refused when any of its addresses is private."""
    client = poster(resolve=resolver(hooks_example=addresses))
    reason = await refusal(client.post("http://hooks.example/", BODY, {}))
    assert reason == "the host has no public address"


async def test_rebinding() -> None:
    """A name that changes its address after the check gains nothing: it is resolved once."""
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address(each) for each in answers.pop(0)]

    async with receiving(status(200)) as receiver:
        client = poster(receiver, resolve=resolve)
        assert await client.post(receiver.url(), BODY, {}) == 200
        assert answers == [["169.254.169.254"]]
        assert await refusal(client.post(receiver.url(), BODY, {})) == (
            "the host has no public address"
        )
    assert receiver.num_connections == 1


@pytest.mark.parametrize("port", [22, 25, 6379, 8080])
async def test_other_ports(port: int) -> None:
    """A public host is not called on a port that is not allowed."""
    client = poster(resolve=resolver(public_example=["93.184.216.34"]))
    url = f"http://public.example:{port}/"
    assert f"port {port} is not allowed" == await refusal(client.post(url, BODY, {}))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "file:///etc/passwd",
        "ftp://hooks.example/",
        "http://",
        "http://user@hooks.example/",
        "http:\\\\hooks.example\\",
        "http://hooks.example/\r\nX: y",
        "http://hooks.example:99999/",
        "http://[::1",
        "http://xn--\x7f/",
    ],
)
async def test_bad_urls(url: str) -> None:
    """A URL that is none, or that holds a trick, is refused before anything is resolved."""

    async def resolve(host: str, port: int) -> list[Address]:
        raise AssertionError("resolved")

    assert await refusal(poster(resolve=resolve).post(url, BODY, {}))


async def test_a_host_name_that_cannot_be() -> None:
    """A name that no resolver takes is refused for good."""
    reason = await refusal(Poster(WebhookSettings()).post("http://" + "a" * 64 + "/", BODY, {}))
    assert reason == "the host name is not valid"


async def test_proxies_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not used: it would resolve and connect instead of us."""
    async with receiving(status(500)) as proxy, receiving(status(200)) as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await poster(receiver).post(receiver.url(), BODY, {}) == 200
    assert proxy.num_connections == 0


# ---- servers that fail, and may not the next time


async def test_a_name_that_is_not_found() -> None:
    """The name may be there tomorrow."""
    client = Poster(WebhookSettings(timeout_s=5.0))
    reason = await failure(client.post("http://does-not-exist.invalid/", BODY, {}))
    assert reason == "the host name could not be resolved"


async def test_nobody_listens() -> None:
    """A refused connection is no reason to give up."""
    async with receiving(status(200)) as receiver:
        client = poster(receiver)
    assert await failure(client.post(receiver.url(), BODY, {})) == "the host could not be reached"


@pytest.mark.parametrize(
    "answer",
    [
        silent,
        endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.02),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    ],
    ids=["silent", "headers", "informational"],
)
async def test_slow_servers(answer: Answer) -> None:
    """However slowly it drips, a call ends in time."""
    async with receiving(answer) as receiver:
        client, started = poster(receiver, timeout_s=0.3), time.monotonic()
        reason = await failure(client.post(receiver.url(), BODY, {}))
    assert reason == "it took longer than 0.3 seconds"
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 10**6],
)
async def test_no_proper_http(content: bytes) -> None:
    """A server that breaks off, or speaks something else, has not been reached."""
    async with receiving(raw(content)) as receiver:
        reason = await failure(poster(receiver).post(receiver.url(), BODY, {}))
    assert reason in (
        "the server broke off or did not speak proper HTTP",
        "the connection broke",
    )


# ---- answers that nobody reads


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1024)),
        endless(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"x", 0.02),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ],
    ids=["endless", "slow", "broken off", "no chunk"],
)
async def test_what_is_said_beyond_the_status(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has received the body, however it goes on: its status stands, and at once."""
    monkeypatch.setattr(post, "ANSWER_TIMEOUT_S", 0.1)
    async with receiving(answer) as receiver:
        started = time.monotonic()
        assert await poster(receiver).post(receiver.url(), BODY, {}) == 200
    assert time.monotonic() - started < 2.0


# ---- TLS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for localhost and its authority."""
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server_context(made: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server, made.server_key)
    return context


@pytest.fixture
def trusting(made: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(made.authority))


@pytest.mark.parametrize("host", ["localhost", "localhost."])
async def test_tls(server_context: ssl.SSLContext, trusting: ssl.SSLContext, host: str) -> None:
    """The certificate is checked against the name, although we connect to an address."""
    async with receiving(status(200), context=server_context) as receiver:
        client = poster(receiver, ssl_context=trusting)
        assert await client.post(receiver.url(host), BODY, {}) == 200


async def test_a_certificate_of_another_host(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """A certificate for another name is refused, and nothing is said to its server."""
    async with receiving(status(200), context=server_context) as receiver:
        client = poster(receiver, ssl_context=trusting)
        reason = await failure(client.post(receiver.url("hooks.example"), BODY, {}))
    assert reason == "the server's certificate or its TLS is not valid"
    assert receiver.posted == []


async def test_an_unknown_authority(server_context: ssl.SSLContext) -> None:
    """A certificate that nobody vouches for is refused."""
    async with receiving(status(200), context=server_context) as receiver:
        reason = await failure(poster(receiver).post(receiver.url("localhost"), BODY, {}))
    assert reason == "the server's certificate or its TLS is not valid"


# ---- the rest


async def test_cancellation() -> None:
    """A call that is not wanted any more ends at once, and is not an error of the server."""
    asked = asyncio.Event()

    async def answer(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with receiving(answer) as receiver:
        task = asyncio.create_task(poster(receiver).post(receiver.url(), BODY, {}))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_a_mistyped_allow_list() -> None:
    """An allow-list that cannot be read stops the start."""
    with pytest.raises(SetupError):
        Poster(WebhookSettings(allowed_hosts=("http://hooks",)))
