"""Whether a webhook is the service's: the steps that fal documents, with the published keys.

Written from the documentation and not with the service's own code, which signs.
"""

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LEEWAY_S = 300
NAMES = ("request-id", "user-id", "timestamp")


def public_keys(jwks: Mapping[str, Any]) -> list[Ed25519PublicKey]:
    """The keys of a JSON Web Key Set."""
    return [Ed25519PublicKey.from_public_bytes(decoded(key["x"])) for key in jwks["keys"]]


def decoded(text: str) -> bytes:
    """base64url, with its padding or without."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def is_genuine(
    headers: Mapping[str, str], body: bytes, keys: Sequence[Ed25519PublicKey], now: float = 0.0
) -> bool:
    """Whether one of the keys signed this body, less than five minutes ago.

    `headers` have names in lower case; `now` is in seconds of the epoch, 0 for this moment.
    """
    try:
        told = [headers[f"x-fal-webhook-{name}"] for name in NAMES]
        signature = bytes.fromhex(headers["x-fal-webhook-signature"])
        age_s = (now or time.time()) - int(told[-1])
    except (KeyError, ValueError):
        return False
    message = "\n".join([*told, hashlib.sha256(body).hexdigest()]).encode()
    return abs(age_s) <= LEEWAY_S and any(signed(key, signature, message) for key in keys)


def signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the key made the signature."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
