"""A post reaches what it may; a host that may not be called, or fails, ends as a clear error.

Hosts, addresses and TLS are the client's, which tests/images/test_fetch.py tests in full.

The receivers are real ones on the loopback interface.
They stand for public hosts by way of `allowed_hosts`, so the guard is on in every test.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from deployments.net import guarded_client as post
from deployments.net.connect import Resolve
from deployments.net.guard import Address, CallRefused
from deployments.net.guarded_client import CallFailed, Poster
from deployments.settings import WebhookSettings
from tests.net.receiver import (
    AUTHORITIES,
    Answer,
    Receiver,
    endless,
    moved,
    receiving,
    reply,
    resolver,
    silent,
    status,
)

pytestmark = pytest.mark.anyio

BODY = b'{"status":"OK"}'
SIGNED = {"X-Fal-Webhook-Request-Id": "r1"}


def poster(
    *receivers: Receiver,
    resolve: Resolve | None = None,
    **changes: Any,
) -> Poster:
    """A poster for which `receivers`, under any name, are public."""
    allowed = tuple(f"127.0.0.1:{receiver.port}" for receiver in receivers)
    settings = WebhookSettings(**{"timeout_s": 3.0, "allowed_hosts": allowed} | changes)
    return Poster(settings, resolve=resolve or resolver(), ssl_context=AUTHORITIES)


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
    """Whatever the server answers is returned."""
    async with receiving(reply(b"HTTP/1.1 %d Said\r\n\r\n" % code)) as receiver:
        assert await poster(receiver).post(receiver.url(), BODY, {}) == code


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(code: int) -> None:
    """A redirect is not followed, not even to an allowed address."""
    async with (
        receiving(status(200)) as target,
        receiving(moved(target.url(), code)) as receiver,
    ):
        assert await poster(receiver, target).post(receiver.url(), BODY, {}) == code
    assert target.num_connections == 0


# ---- hostile hosts and URLs


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "[::1]",
        "169.254.169.254",
    ],
)
async def test_private_addresses(host: str) -> None:
    """No way to write a private address leads to it: the system's resolver has the last word."""
    async with receiving(status(200)) as receiver:
        settings = WebhookSettings(allowed_ports=(receiver.port,), timeout_s=3.0)
        client = Poster(settings, ssl_context=AUTHORITIES)
        assert await refusal(client.post(receiver.url(host), BODY, {})) in (
            "the host has no public address",
            "the URL is not valid",
        )
    assert receiver.num_connections == 0


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


# ---- servers that fail, and may not the next time


async def test_a_name_that_is_not_found() -> None:
    """The name may be there tomorrow."""
    client = Poster(WebhookSettings(timeout_s=5.0))
    reason = await failure(client.post("http://does-not-exist.invalid/", BODY, {}))
    assert reason == "the host name could not be resolved"


async def test_a_closed_port() -> None:
    """A refused connection is no reason to give up."""
    async with receiving(status(200)) as receiver:
        client = poster(receiver)
    assert await failure(client.post(receiver.url(), BODY, {})) == "the host could not be reached"


@pytest.mark.slow
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
    async with receiving(reply(content)) as receiver:
        reason = await failure(poster(receiver).post(receiver.url(), BODY, {}))
    assert reason in (
        "the server broke off or did not speak proper HTTP",
        "the connection broke",
    )


# ---- answers beyond their status


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1024)),
        endless(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"x", 0.02),
        reply(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
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
