"""UrlSigner: good for what they were signed for, until their time is over."""

import time

import pytest

from deployments.api.signed_urls import Action, Permission, UrlSigner
from deployments.errors import Forbidden
from deployments.jobs.memory import MemoryStore
from deployments.settings import QueueSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryStore:
    """Where the secret is."""
    return MemoryStore(QueueSettings())


def ticket(action: Action = "file", subject: str = "a.png", lives_s: float = 60) -> Permission:
    """A ticket for up to 1000 bytes."""
    return Permission(action, subject, 1000, int(time.time() + lives_s))


async def test_a_ticket_is_redeemed_by_any_replica(store: MemoryStore) -> None:
    """What one signs, another believes, because they share a secret."""
    given = ticket()
    text = await UrlSigner(store).sign(given)

    assert await UrlSigner(store).verify("file", "a.png", text) == given


async def test_another_service_has_another_secret(store: MemoryStore) -> None:
    """A ticket of another service is worth nothing."""
    text = await UrlSigner(MemoryStore(QueueSettings())).sign(ticket())

    with pytest.raises(Forbidden):
        await UrlSigner(store).verify("file", "a.png", text)


@pytest.mark.parametrize(
    ("action", "subject"), [("parts", "a.png"), ("token", "a.png"), ("file", "b.png"), ("file", "")]
)
async def test_a_ticket_is_for_one_thing(store: MemoryStore, action: Action, subject: str) -> None:
    """It permits no other action, and no other subject."""
    tickets = UrlSigner(store)
    text = await tickets.sign(ticket())

    with pytest.raises(Forbidden):
        await tickets.verify(action, subject, text)


async def test_a_ticket_cannot_be_altered(store: MemoryStore) -> None:
    """No digit of it can be another: neither size, nor time, nor signature."""
    tickets = UrlSigner(store)
    text = await tickets.sign(ticket())

    for place, digit in enumerate(text):
        altered = text[:place] + ("0" if digit != "0" else "1") + text[place + 1 :]
        with pytest.raises(Forbidden):
            await tickets.verify("file", "a.png", altered)


@pytest.mark.parametrize("text", ["", "x", "1.2", "1.2." + "g" * 64, "1.2." + "0" * 64, "٣.2.3"])
async def test_what_is_no_ticket_is_refused(store: MemoryStore, text: str) -> None:
    """Whatever stands in its place."""
    with pytest.raises(Forbidden):
        await UrlSigner(store).verify("file", "a.png", text)


async def test_a_ticket_ends(store: MemoryStore) -> None:
    """When its time is over, it is refused."""
    tickets = UrlSigner(store)
    text = await tickets.sign(ticket(lives_s=-1))

    with pytest.raises(Forbidden):
        await tickets.verify("file", "a.png", text)
