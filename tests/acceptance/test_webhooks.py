"""Webhooks, received by a real server that verifies, fails and restarts."""

import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.acceptance.caller import PROPOSAL, Caller, scene, uri
from tests.acceptance.receiver import Delivery, Receiver, verify_webhook_signature

CLOSED_S = 1.0  # long enough for a delivery to meet a closed port


@pytest.fixture
def path() -> str:
    """Where this test's webhooks are sent."""
    return f"/hooks/{uuid4()}"


def submit(caller: Caller, webhook_url: str, image_url: str) -> httpx2.Response:
    """Queue a request with a webhook."""
    url = f"{caller.url}/queue{PROPOSAL}"
    return caller.http.post(
        url,
        params={"fal_webhook": webhook_url},
        json={"image_url": image_url},
        headers=caller.authorization,
    )


def result(caller: Caller, submitted: Any) -> httpx2.Response:
    """The result of a request that has ended."""
    return caller.http.get(submitted["response_url"], headers=caller.authorization)


def verified(caller: Caller, delivery: Delivery) -> bool:
    """Whether a receiver would believe it."""
    return verify_webhook_signature(delivery, f"{caller.url}/.well-known/jwks.json")


def test_a_result_is_delivered(caller: Caller, receiver: Receiver, path: str) -> None:
    """The receiver gets one webhook in fal's shape, which fal's steps verify."""
    submitted = submit(caller, receiver.url(path), uri(scene(1).image)).json()
    [delivery] = receiver.deliveries(path)

    assert delivery.message == {
        "request_id": submitted["request_id"],
        "gateway_request_id": submitted["gateway_request_id"],
        "status": "OK",
        "payload": result(caller, submitted).json(),
    }
    assert delivery.message["payload"]["results"]["bboxes"]
    picture = delivery.message["payload"]["image"]  # of a queued request, so it was stored before
    assert len(caller.http.get(picture["url"]).content) == picture["file_size"]
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["x-fal-webhook-request-id"] == submitted["request_id"]
    assert verified(caller, delivery)


def test_a_failure_is_delivered(caller: Caller, receiver: Receiver, path: str) -> None:
    """The receiver gets the error that the caller would have got."""
    submitted = submit(caller, receiver.url(path), uri(b"Hello, World!")).json()
    [delivery] = receiver.deliveries(path)
    refusal = result(caller, submitted)

    assert refusal.status_code == 422
    assert delivery.message == {
        "request_id": submitted["request_id"],
        "gateway_request_id": submitted["gateway_request_id"],
        "status": "ERROR",
        "error": "Invalid status code: 422",
        "payload": refusal.json(),
    }
    assert verified(caller, delivery)


def test_a_receiver_that_fails_and_restarts_gets_its_webhook(
    caller: Caller, receiver: Receiver, path: str
) -> None:
    """Two deliveries are answered 500 and the port is closed for a while; then it arrives."""
    receiver.failures[path] = 2
    submitted = submit(caller, receiver.url(path), uri(scene(2).image)).json()
    receiver.deliveries(path)
    receiver.stop()
    time.sleep(CLOSED_S)
    receiver.start()
    deliveries = receiver.deliveries(path, 3)
    stamps = [int(each.headers["x-fal-webhook-timestamp"]) for each in deliveries]

    assert [each.answer for each in deliveries] == [500, 500, 200]
    assert {each.message["request_id"] for each in deliveries} == {submitted["request_id"]}
    assert {each.body for each in deliveries} == {deliveries[0].body}
    assert all(verified(caller, each) for each in deliveries)
    assert stamps[0] < stamps[-1]


def test_what_was_changed_is_not_believed(caller: Caller, receiver: Receiver, path: str) -> None:
    """The signature covers the body, the request, the user and the time."""
    submit(caller, receiver.url(path), uri(scene(3).image))
    [delivery] = receiver.deliveries(path)
    named = ("x-fal-webhook-request-id", "x-fal-webhook-user-id", "x-fal-webhook-timestamp")
    forged = [replace(delivery, body=delivery.body + b" ")]
    forged += [
        replace(delivery, headers={**delivery.headers, name: str(int(time.time()) + 1)})
        for name in named
    ]

    assert verified(caller, delivery)
    assert [verified(caller, each) for each in forged] == [False] * 4


def test_the_keys_are_where_fal_has_them_too(caller: Caller) -> None:
    """The same document under the prefix of fal's own host; it may be cached."""
    ours, fals = (
        caller.http.get(caller.url + place)
        for place in ("/.well-known/jwks.json", "/rest/.well-known/jwks.json")
    )

    assert ours.json() == fals.json()
    assert ours.json()["keys"]
    assert "max-age" in ours.headers["cache-control"]


@pytest.mark.parametrize("url", ["ftp://example.com/hook", "hook", "http://user:pass@127.0.0.1/"])
def test_what_is_no_webhook_url_is_refused_at_once(caller: Caller, url: str) -> None:
    """The caller learns it when the request is submitted, not when it is too late."""
    refusal = submit(caller, url, uri(scene(1).image))

    assert (refusal.status_code, refusal.json()["error_type"]) == (400, "bad_request")
