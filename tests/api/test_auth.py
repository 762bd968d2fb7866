"""API keys and signed URLs: which are accepted, and how the others are answered."""

import asyncio
import time

import pytest

from deployments.api import auth as keys
from deployments.api.auth import Action, Caller, Keyring, Permission, UrlSigner
from deployments.errors import Forbidden, StoreUnavailable, Unauthorized
from deployments.jobs.api_key import ApiKey
from deployments.settings import KeySettings, QueueSettings, hash_key
from tests.jobs.memory import MemoryStore

from .service import CAPTION, KEY, KEY_ID, OTHER_KEY, AwayStore, Serve, Service

MISSING = (
    "Cannot access application 'fal-ai/florence-2-large'. "
    "Authentication is required to access this application."
)
MALFORMED = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
WRONG = "No user found for Key ID and Secret"
BODY = {"image_url": "u"}


@pytest.mark.parametrize(
    "header",
    [f"Key {KEY}", f"key {KEY}", f"KEY  {KEY}", f"Bearer {KEY}", f"bearer {KEY}", f" Key {KEY} "],
)
def test_a_key_lets_in(service: Service, header: str) -> None:
    """Both schemes are taken in any case, with any space around the key."""
    response = service.client.post(CAPTION, json=BODY, headers={"Authorization": header})

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, MISSING),
        ({"Authorization": ""}, MALFORMED),
        ({"Authorization": "Key"}, MALFORMED),
        ({"Authorization": "Key  "}, MALFORMED),
        ({"Authorization": KEY}, MALFORMED),
        ({"Authorization": f"Basic {KEY}"}, MALFORMED),
        ({"Authorization": "Key kid:other"}, WRONG),
        ({"Authorization": f"Key {KEY}x"}, WRONG),
        ({"Authorization": f"Key {hash_key(KEY)}"}, WRONG),
        ({"Authorization": "Key \xe9"}, WRONG),
    ],
)
def test_others_stay_out(service: Service, headers: dict[str, str], detail: str) -> None:
    """A key that is missing, malformed or wrong is a 401 with fal's sentence, and nothing runs."""
    encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    response = service.client.post(CAPTION, json=BODY, headers=encoded)

    assert response.status_code == 401
    assert response.json() == {"detail": detail, "error_type": "unauthorized"}
    assert response.headers["x-fal-error-type"] == "unauthorized"
    assert service.runs == []


def test_key_is_checked_before_the_body_is_read(service: Service) -> None:
    """A stranger's body costs nothing: not even its mistakes are seen."""
    response = service.client.post(CAPTION, content=b"{")

    assert response.status_code == 401


def test_any_of_the_keys_lets_in(serve: Serve) -> None:
    """Each hash counts, in whichever case it was written."""
    service = serve(keys={"hashes": [hash_key("other"), hash_key(KEY).upper()]})

    assert service.post(BODY).status_code == 200


def test_without_keys_every_call_is_refused(serve: Serve) -> None:
    """A service that knows no key refuses every one."""
    assert serve(keys={"hashes": []}).post(BODY).status_code == 401


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/openapi.json"])
def test_public_pages_need_no_key(service: Service, path: str) -> None:
    """Probes, scrapers and tools come without a key."""
    assert service.client.get(path).status_code == 200


def test_preflight_needs_no_key(service: Service) -> None:
    """Browsers send no key with OPTIONS."""
    assert service.client.options(CAPTION).status_code == 204


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


class CountingStore(MemoryStore):
    """A store that counts how often it is asked for a key."""

    num_asked = 0

    async def key_by_hash(self, key_hash: str) -> ApiKey | None:
        """The key with this hash."""
        self.num_asked += 1
        return await super().key_by_hash(key_hash)


@pytest.fixture
def clock() -> Clock:
    """One clock for the store and the replica."""
    return Clock()


@pytest.fixture
def store(clock: Clock) -> CountingStore:
    """A store without keys."""
    return CountingStore(QueueSettings(), clock)


@pytest.fixture
def keyring(store: CountingStore, clock: Clock) -> Keyring:
    """A replica's keyring that trusts what it knows for two seconds."""
    return Keyring(KeySettings(hashes=(hash_key(KEY),), cache_s=2.0), store, clock)


def authorize(keyring: Keyring, key: str = OTHER_KEY) -> Caller:
    """Who comes with `key`."""
    return asyncio.run(keyring.authorize({"authorization": f"Key {key}"}))


def is_let_in(keyring: Keyring, key: str = OTHER_KEY) -> bool:
    """Whether `key` opens."""
    try:
        authorize(keyring, key)
    except Unauthorized:
        return False
    return True


def add(store: MemoryStore, key: str = OTHER_KEY, **more: float | str | None) -> None:
    """Store a key."""
    key_id = key.partition(":")[0]
    asyncio.run(store.add_key(ApiKey(id=key_id, hash=hash_key(key), **more)))  # type: ignore[arg-type]


def test_a_stored_key_lets_in(service: Service) -> None:
    """Keys of the store are as good as those of the settings."""
    service.add_key()

    headers = {"Authorization": f"Key {OTHER_KEY}"}
    assert service.client.post(CAPTION, json=BODY, headers=headers).status_code == 200


def test_a_caller_has_the_limits_of_the_key(store: CountingStore, keyring: Keyring) -> None:
    """A stored key brings its id, its limits and its adapter; one of the settings has none."""
    add(store, concurrency=2, rate=0.5, adapter="forms")

    assert authorize(keyring) == Caller("other", concurrency=2, rate=0.5, adapter="forms")
    assert authorize(keyring, KEY) == Caller(KEY_ID)


def test_a_revoked_key_closes_within_seconds(
    store: CountingStore, keyring: Keyring, clock: Clock
) -> None:
    """What was known is trusted for `cache_s` and no longer."""
    add(store)
    assert is_let_in(keyring)
    asyncio.run(store.revoke_key("other"))
    assert is_let_in(keyring)
    clock.now += 2.0

    assert not is_let_in(keyring)


def test_an_expired_key_closes(store: CountingStore, keyring: Keyring, clock: Clock) -> None:
    """A key has an end if it was given one."""
    add(store, expires_at=1010.0)
    assert is_let_in(keyring)
    clock.now = 1010.0

    assert not is_let_in(keyring)


def test_a_new_key_opens_within_seconds(
    store: CountingStore, keyring: Keyring, clock: Clock
) -> None:
    """Who was refused before the key was added is not refused for long."""
    assert not is_let_in(keyring)
    add(store)
    clock.now += 2.0

    assert is_let_in(keyring)


def test_the_store_is_asked_seldom(store: CountingStore, keyring: Keyring, clock: Clock) -> None:
    """One question for each key in `cache_s`, whether it is known or not."""
    add(store)
    for _ in range(3):
        authorize(keyring)
        assert not is_let_in(keyring, "no:key")
    assert store.num_asked == 2
    clock.now += 2.0
    authorize(keyring)

    assert store.num_asked == 3


def test_keys_of_the_settings_need_no_store() -> None:
    """They are accepted also when the store is away; others cannot be checked then."""
    keyring = Keyring(KeySettings(hashes=(hash_key(KEY),)), AwayStore())

    assert authorize(keyring, KEY) == Caller(KEY_ID)
    with pytest.raises(StoreUnavailable):
        authorize(keyring)


def test_wrong_keys_fill_no_memory(
    store: CountingStore, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any caller can invent keys, so only the latest are cached."""
    monkeypatch.setattr(keys, "MAX_CACHED", 10)
    for number in range(25):
        assert not is_let_in(keyring, f"wrong:{number}")
    assert store.num_asked == 25

    is_let_in(keyring, "wrong:24")
    assert store.num_asked == 25
    is_let_in(keyring, "wrong:0")
    assert store.num_asked == 26


@pytest.mark.parametrize("path", ["/queue" + CAPTION, "/api/fal/proxy"])
def test_every_path_asks_for_the_key(service: Service, path: str) -> None:
    """The queue and the proxy are closed to strangers, and open to stored keys."""
    service.add_key()
    label = {"x-fal-target-url": f"https://queue.fal.run{CAPTION}"}
    statuses = [
        service.client.post(path, json=BODY, headers=label | headers).status_code
        for headers in ({}, {"Authorization": "Key no"}, {"Authorization": f"Key {OTHER_KEY}"})
    ]

    assert statuses == [401, 401, 200]


def permission(action: Action = "file", subject: str = "a.png", lives_s: float = 60) -> Permission:
    """To upload up to 1000 bytes."""
    return Permission(action, subject, 1000, int(time.time() + lives_s))


@pytest.mark.anyio
async def test_any_replica_verifies_a_signature(store: MemoryStore) -> None:
    """What one signs, another accepts: they share a secret."""
    given = permission()
    text = await UrlSigner(store).sign(given)

    assert await UrlSigner(store).verify("file", "a.png", text) == given


@pytest.mark.anyio
async def test_another_service_signs_with_another_secret(store: MemoryStore) -> None:
    """Its signatures are not ours."""
    text = await UrlSigner(MemoryStore(QueueSettings())).sign(permission())

    with pytest.raises(Forbidden):
        await UrlSigner(store).verify("file", "a.png", text)


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_a_signature_cannot_be_altered(store: MemoryStore) -> None:
    """No digit of it can be another: neither size, nor time, nor signature."""
    signer = UrlSigner(store)
    text = await signer.sign(permission())

    for index, digit in enumerate(text):
        altered = text[:index] + ("0" if digit != "0" else "1") + text[index + 1 :]
        with pytest.raises(Forbidden):
            await signer.verify("file", "a.png", altered)


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["", "x", "1.2", "1.2." + "g" * 64, "1.2." + "0" * 64, "٣.2.3"])
async def test_what_is_no_signature_is_refused(store: MemoryStore, text: str) -> None:
    """Whatever it is."""
    with pytest.raises(Forbidden):
        await UrlSigner(store).verify("file", "a.png", text)


@pytest.mark.anyio
async def test_a_signature_expires(store: MemoryStore) -> None:
    """Then it is refused."""
    signer = UrlSigner(store)
    text = await signer.sign(permission(lives_s=-1))

    with pytest.raises(Forbidden):
        await signer.verify("file", "a.png", text)
