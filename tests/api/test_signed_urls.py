"""Signatures are good for what was signed, until they expire."""

import time

import pytest

from deployments.api.signed_urls import Action, Permission, UrlSigner
from deployments.errors import Forbidden
from deployments.settings import QueueSettings
from tests.jobs.memory import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryStore:
    """Where the secret is."""
    return MemoryStore(QueueSettings())


def permission(action: Action = "file", subject: str = "a.png", lives_s: float = 60) -> Permission:
    """To upload up to 1000 bytes."""
    return Permission(action, subject, 1000, int(time.time() + lives_s))


async def test_any_replica_verifies(store: MemoryStore) -> None:
    """What one signs, another accepts: they share a secret."""
    given = permission()
    text = await UrlSigner(store).sign(given)

    assert await UrlSigner(store).verify("file", "a.png", text) == given


async def test_another_service_has_another_secret(store: MemoryStore) -> None:
    """Its signatures are not ours."""
    text = await UrlSigner(MemoryStore(QueueSettings())).sign(permission())

    with pytest.raises(Forbidden):
        await UrlSigner(store).verify("file", "a.png", text)


@pytest.mark.parametrize(
    ("action", "subject"), [("parts", "a.png"), ("token", "a.png"), ("file", "b.png"), ("file", "")]
)
async def test_a_signature_is_for_one_thing(
    store: MemoryStore, action: Action, subject: str
) -> None:
    """It permits no other action, and no other subject."""
    signer = UrlSigner(store)
    text = await signer.sign(permission())

    with pytest.raises(Forbidden):
        await signer.verify(action, subject, text)


async def test_a_signature_cannot_be_altered(store: MemoryStore) -> None:
    """No digit of it can be another: neither size, nor time, nor signature."""
    signer = UrlSigner(store)
    text = await signer.sign(permission())

    for index, digit in enumerate(text):
        altered = text[:index] + ("0" if digit != "0" else "1") + text[index + 1 :]
        with pytest.raises(Forbidden):
            await signer.verify("file", "a.png", altered)


@pytest.mark.parametrize("text", ["", "x", "1.2", "1.2." + "g" * 64, "1.2." + "0" * 64, "٣.2.3"])
async def test_what_is_no_signature_is_refused(store: MemoryStore, text: str) -> None:
    """Whatever it is."""
    with pytest.raises(Forbidden):
        await UrlSigner(store).verify("file", "a.png", text)


async def test_a_signature_expires(store: MemoryStore) -> None:
    """Then it is refused."""
    signer = UrlSigner(store)
    text = await signer.sign(permission(lives_s=-1))

    with pytest.raises(Forbidden):
        await signer.verify("file", "a.png", text)
