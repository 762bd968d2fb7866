"""Webhooks are verified by fal's documented steps, apart from the code that signs."""

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deployments.webhooks.signing import jwks, make_key, read_keys, signed_headers
from deployments.webhooks.webhook import PublicKey
from loadtest.receiver import is_genuine, public_keys

Signed = tuple[dict[str, str], list[Ed25519PublicKey]]
BODY = b'{"request_id":"an-id","status":"OK"}'


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    """The headers of a webhook, names in lower case, and the published keys."""
    make_key(tmp_path)
    [key] = read_keys(tmp_path).values()
    headers = signed_headers("an-id", "a-user", int(time.time()), BODY, key)
    published = jwks([PublicKey(kid=key.kid, x=key.x, state="active")])
    return {name.lower(): text for name, text in headers.items()}, [*public_keys(published)]


def test_the_services_own_signature_is_genuine(signed: Signed) -> None:
    headers, keys = signed

    assert is_genuine(headers, BODY, keys)


def test_another_body_another_key_and_no_signature_are_not(
    signed: Signed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    headers, keys = signed
    folder = tmp_path_factory.mktemp("other")
    make_key(folder)
    [other] = read_keys(folder).values()
    others = public_keys(jwks([PublicKey(kid=other.kid, x=other.x, state="active")]))

    assert not is_genuine(headers, BODY + b" ", keys)
    assert not is_genuine(headers, BODY, others)
    assert not is_genuine({}, BODY, keys)
    assert not is_genuine({**headers, "x-fal-webhook-signature": "no hex"}, BODY, keys)


def test_an_old_webhook_is_not_genuine(signed: Signed) -> None:
    """Five minutes are allowed, as fal does."""
    headers, keys = signed
    sent = int(headers["x-fal-webhook-timestamp"])

    assert is_genuine(headers, BODY, keys, now=sent + 299)
    assert not is_genuine(headers, BODY, keys, now=sent + 301)
