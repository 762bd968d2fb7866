"""Signatures, keys in a folder, what is published of them, and their rotation."""

import base64
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.errors import SetupError
from deployments.settings import QueueSettings, WebhookSettings
from deployments.webhooks import signing
from deployments.webhooks.signing import (
    CACHED_S,
    REREAD_S,
    PrivateKey,
    SigningKeys,
    jwks,
    make_key,
    read_keys,
    signed_headers,
)
from deployments.webhooks.webhook import PublicKey
from tests.jobs.memory import MemoryStore

pytestmark = pytest.mark.anyio

DAY = 24 * 3600.0
# The vector on which PyNaCl and cryptography agree.
SEED = bytes(range(32))
X = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
REQUEST = "123e4567-e89b-12d3-a456-426614174000"
BODY = (
    f'{{"request_id":"{REQUEST}","gateway_request_id":"{REQUEST}",'
    '"status":"OK","payload":{"results":{"bboxes":[]}}}'
).encode()
SIGNATURE = (
    "c0f31d1c517a10641ac8273d63964cd6639cdc13e51219fd5c8d6281bb5f9fee"
    "a04d10acdf39be92504b182678eb685541002ad3ff1c4abe915102f8ebde8a01"
)


class Bench:
    """A folder and a store whose clocks stand still until they are moved."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_700_000_000.0
        self.path = folder
        self.settings = WebhookSettings(keys=str(folder))
        self.store = MemoryStore(QueueSettings(), lambda: self.now)
        self.keys = self.another()

    def another(self) -> SigningKeys:
        """The folder as another process has it."""
        return SigningKeys(self.settings, self.store, lambda: self.now)

    async def states(self) -> dict[str, str]:
        """The state of each published key."""
        return {key.kid: key.state for key in await self.keys.published()}

    async def in_state(self, state: str) -> list[str]:
        """The ids of the published keys in one state."""
        return [kid for kid, each in (await self.states()).items() if each == state]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "webhooks")


def vector_key() -> PrivateKey:
    return PrivateKey("vector", Ed25519PrivateKey.from_private_bytes(SEED))


# ---- signatures


def test_the_vector() -> None:
    """The headers are those on which two libraries agree."""
    assert vector_key().x == X
    assert signed_headers(REQUEST, "user-1", 1_700_000_000, BODY, vector_key()) == {
        "X-Fal-Webhook-Request-Id": REQUEST,
        "X-Fal-Webhook-User-Id": "user-1",
        "X-Fal-Webhook-Timestamp": "1700000000",
        "X-Fal-Webhook-Signature": SIGNATURE,
    }


def test_the_document() -> None:
    """A receiver finds each public half with its padding, in the order given."""
    keys = [PublicKey(kid="a", x=X, state="active"), PublicKey(kid="b", x=X, state="next")]
    document = jwks(keys)

    assert [key["kid"] for key in document["keys"]] == ["a", "b"]
    assert document["keys"][0] == {
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
        "kid": "a",
        "x": X,
    }
    assert len(base64.urlsafe_b64decode(document["keys"][0]["x"])) == 32


# ---- the folder


async def test_the_first_start_makes_two_keys(bench: Bench) -> None:
    """One signs, one is next; both are published, and a second start changes nothing."""
    usable = await bench.keys.ensure()
    states = await bench.states()

    assert list(states.values()) == ["active", "next"]
    assert [key.kid for key in usable] == list(states)
    assert sorted(states) == sorted(read_keys(bench.path))
    await bench.another().ensure()
    assert await bench.states() == states


async def test_keys_are_private(bench: Bench) -> None:
    """Other users of the machine can neither read nor list the keys."""
    await bench.keys.ensure()
    files = list(bench.path.iterdir())

    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert {file.suffix for file in files} == {".pem"}


async def test_a_key_is_a_plain_pem_file(bench: Bench) -> None:
    """Any tool can read it: PKCS8, not encrypted; the file's name is the key's id."""
    [first, _] = await bench.keys.ensure()
    text = (bench.path / f"{first.kid}.pem").read_text()

    assert text.startswith("-----BEGIN PRIVATE KEY-----")
    loaded = serialization.load_pem_private_key(text.encode(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    assert PrivateKey("", loaded).x == first.x


async def test_the_active_key_signs(bench: Bench) -> None:
    """And goes on to for as long as it is active."""
    key = await bench.keys.current()
    assert [key.kid] == await bench.in_state("active")
    bench.now += 30 * DAY
    assert (await bench.keys.current()).kid == key.kid


async def test_a_secret_is_taken_as_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the keys that somebody else put there, the first signs and the others are next."""
    made = sorted(make_key(bench.path).kid for _ in range(3))
    monkeypatch.setattr(signing, "make_key", None)  # nothing is written
    await bench.keys.ensure()

    assert await bench.in_state("active") == made[:1]
    assert sorted(await bench.in_state("next")) == made[1:]


async def test_a_secret_mounted_by_kubernetes(bench: Bench, tmp_path: Path) -> None:
    """Its files are links into hidden folders, which are not keys."""
    data = tmp_path / "volume"
    key = make_key(data)
    (data / "notes.txt").write_text("not a key")
    bench.path.mkdir()
    (bench.path / "..data").symlink_to(data)
    (bench.path / f"{key.kid}.pem").symlink_to(Path("..data") / f"{key.kid}.pem")
    (bench.path / ".hidden.pem").write_text("not a key")

    assert [each.kid for each in await bench.keys.ensure()] == [key.kid]


async def test_a_file_put_there_is_published(bench: Bench) -> None:
    """Without a restart, as the next key."""
    await bench.keys.current()
    added = make_key(bench.path)
    bench.now += REREAD_S - 1
    await bench.keys.current()
    assert added.kid not in await bench.states()
    bench.now += 1
    await bench.keys.current()
    assert added.kid in await bench.in_state("next")


async def test_another_replica_signs_with_the_same_key(bench: Bench) -> None:
    """Those that share the folder and the store agree."""
    assert (await bench.keys.current()).kid == (await bench.another().current()).kid


async def test_without_the_active_key_another_published_one_signs(bench: Bench) -> None:
    """The file is lost; the next key is published too, so receivers can verify with it."""
    active = await bench.keys.current()
    (bench.path / f"{active.kid}.pem").unlink()

    key = await bench.another().current()
    assert [key.kid] == await bench.in_state("next")


async def test_a_lost_folder_is_made_again(bench: Bench, tmp_path: Path) -> None:
    """There are new keys to sign with; the old active one stays published."""
    old = await bench.keys.current()
    bench.path.rename(tmp_path / "lost")

    key = await bench.another().current()
    assert key.kid in await bench.in_state("next")
    assert [old.kid] == await bench.in_state("active")


async def test_a_folder_without_keys_that_cannot_be_written(tmp_path: Path) -> None:
    """One line names the folder and the remedy."""
    (tmp_path / "file").touch()
    bench = Bench(tmp_path / "file" / "webhooks")
    with pytest.raises(SetupError, match=r"openssl genpkey -algorithm ed25519") as refused:
        await bench.keys.current()
    assert str(bench.path) in str(refused.value)


def other_kind() -> bytes:
    """A private key that is not Ed25519."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def encrypted() -> bytes:
    """An Ed25519 key with a password."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"-----BEGIN PRIVATE KEY-----\nbroken", other_kind(), encrypted()],
    ids=["empty", "broken", "other kind", "encrypted"],
)
async def test_a_file_that_is_no_key(bench: Bench, content: bytes) -> None:
    """The error names it, and no key is made."""
    bench.path.mkdir()
    (bench.path / "mine.pem").write_bytes(content)
    with pytest.raises(SetupError, match=r"mine\.pem is no Ed25519 key without a password"):
        await bench.keys.ensure()
    assert len(list(bench.path.iterdir())) == 1


async def test_a_file_that_cannot_be_read(bench: Bench) -> None:
    """It is named."""
    (bench.path / "mine.pem").mkdir(parents=True)
    with pytest.raises(SetupError, match=r"cannot read the webhook key .*mine\.pem"):
        await bench.keys.ensure()


async def test_another_key_under_a_known_name(bench: Bench) -> None:
    """Receivers would look for the wrong public half."""
    [first, second] = await bench.keys.ensure()
    (bench.path / f"{second.kid}.pem").write_bytes(first.pem)
    with pytest.raises(SetupError, match=f"give {second.kid}.pem a new name"):
        await bench.another().current()


# ---- rotation


async def test_rotation(bench: Bench) -> None:
    """The next key signs, the active one is retired, and there is a new next one."""
    [old, new] = await bench.keys.ensure()
    bench.now += DAY
    rotation = await bench.keys.rotate()

    assert (rotation.active, rotation.retired) == (new.kid, (old.kid,))
    assert rotation.next not in (old.kid, new.kid, None)
    assert await bench.states() == {new.kid: "active", rotation.next: "next", old.kid: "retired"}
    assert (await bench.another().current()).kid == new.kid


async def test_a_running_process_follows_a_rotation(bench: Bench) -> None:
    """Within seconds; until then its signatures verify, as its key is published still."""
    await bench.keys.current()
    bench.now += DAY
    await bench.keys.current()
    rotation = await bench.another().rotate()
    assert ((await bench.keys.current()).kid,) == rotation.retired
    bench.now += REREAD_S
    assert (await bench.keys.current()).kid == rotation.active


async def test_a_rotation_that_is_too_early(bench: Bench) -> None:
    """Receivers remember the published keys for a day; it says when it will be possible."""
    [_, new] = await bench.keys.ensure()
    before = await bench.states()
    bench.now += CACHED_S - 1
    with pytest.raises(SetupError) as refused:
        await bench.keys.rotate()

    assert f"the next key {new.kid} before 2023-11-15 22:13 UTC" in str(refused.value)
    assert "--now" in str(refused.value)
    assert await bench.states() == before


async def test_a_rotation_in_an_emergency(bench: Bench) -> None:
    """The operator may take it upon them that some receivers refuse for a day."""
    [_, new] = await bench.keys.ensure()
    assert (await bench.keys.rotate(early=True)).active == new.kid


async def test_a_retired_key_outlasts_its_webhooks(bench: Bench) -> None:
    """It is published for the time of the retries and a day, and then no more."""
    [old, _] = await bench.keys.ensure()
    await bench.keys.rotate(early=True)
    bench.now += bench.settings.span_s + DAY - 1
    assert old.kid in await bench.states()
    bench.now += 1
    assert old.kid not in await bench.states()


async def test_two_rotations(bench: Bench) -> None:
    """Every key has its day: what is next now has been published when it signs."""
    await bench.keys.ensure()
    bench.now += DAY
    first = await bench.keys.rotate()
    with pytest.raises(SetupError):
        await bench.keys.rotate()
    bench.now += DAY
    second = await bench.keys.rotate()

    assert (second.active, second.retired) == (first.next, (first.active,))


async def test_a_rotation_of_a_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written the next key is the operator's business."""
    made = sorted(make_key(bench.path).kid for _ in range(2))
    await bench.keys.ensure()
    bench.now += DAY
    monkeypatch.setattr("os.access", lambda *_: False)
    rotation = await bench.keys.rotate()

    assert (rotation.active, rotation.retired, rotation.next) == (made[1], (made[0],), None)
    assert sorted(read_keys(bench.path)) == made


async def test_the_next_key_is_elsewhere(bench: Bench) -> None:
    """A next key without its private half cannot sign; a new one is made, and has to wait."""
    [active, lost] = await bench.keys.ensure()
    (bench.path / f"{lost.kid}.pem").unlink()
    bench.now += DAY
    with pytest.raises(SetupError, match="receivers may not know the next key"):
        await bench.keys.rotate()

    names: Sequence[str] = sorted(read_keys(bench.path))
    assert len(names) == 2
    assert active.kid in names
    assert set(names) - {active.kid} <= set(await bench.in_state("next"))
