"""Who can call, and whether webhooks can be trusted."""

from dataclasses import replace
from pathlib import Path

import pytest

from deployments.cli.doctor.check import safely
from deployments.cli.doctor.keys import keys, webhook_keys
from deployments.cli.doctor.subject import Subject
from deployments.cli.doctor.verdict import Kind, Verdict
from deployments.cli.options import run_with_store
from deployments.jobs.api_key import ApiKey
from deployments.jobs.store import Store
from deployments.settings import WebhookSettings, hash_key
from deployments.webhooks.signing import SigningKeys, make_key
from deployments.webhooks.webhook import KeyState, PublicKey
from tests.cli.doctor.conftest import subject


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two webhook keys."""
    found = tmp_path / "webhooks"
    for _ in range(2):
        make_key(found)
    return found


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store without keys."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"

    async def ask(opened: Store) -> float:
        return await opened.now()

    run_with_store(url, ask)
    return url


def of(store: str, folder: Path | str = "/nowhere", hashes: tuple[str, ...] = ()) -> Subject:
    """A subject with these keys."""
    tree = {"store": {"url": store}, "keys": {"hashes": hashes}, "webhooks": {"keys": str(folder)}}
    return subject(tree)


def looked(store: str, folder: Path) -> Verdict:
    """What the check says of webhook keys."""
    return safely(lambda: webhook_keys(of(store, folder)))


def test_a_key_in_the_settings_is_enough(store: str) -> None:
    """And one in a store that is not to be seen is not looked for."""
    found = keys(of(store, hashes=(hash_key("k"),)))
    assert (found.kind, found.said) == (Kind.OK, "1 in the settings, 0 in the store")
    assert keys(of("memory:", hashes=(hash_key("k"),))).said == "1 in the settings, ? in the store"


def test_a_key_in_the_store_is_enough_while_it_is_valid(store: str) -> None:
    """Not when it was revoked."""

    async def add(opened: Store) -> None:
        await opened.add_key(ApiKey(id="a", hash="h"))

    async def revoke(opened: Store) -> bool:
        return await opened.revoke_key("a")

    run_with_store(store, add)
    assert keys(of(store)).said == "0 in the settings, 1 in the store"
    run_with_store(store, revoke)
    assert keys(of(store)).kind is Kind.WARN


def test_without_a_key_nobody_can_call(store: str) -> None:
    """But `florence serve` makes one."""
    found = keys(of(store))
    assert (found.kind, found.said) == (Kind.WARN, "there is none, so nobody can call")
    assert "florence keys create" in found.remedy
    assert keys(replace(of(store), is_laptop=True)).kind is Kind.OK


def test_two_webhook_keys_are_fine(store: str, folder: Path) -> None:
    """Before a first start, and after it."""
    assert looked(store, folder).said == f"2 in {folder}"
    publish(store, folder)
    assert looked(store, folder).said == f"2 in {folder}"


def publish(store: str, folder: Path) -> None:
    """What a first start does."""

    async def ensure(opened: Store) -> int:
        return len(await SigningKeys(WebhookSettings(keys=str(folder)), opened).ensure())

    run_with_store(store, ensure)


def test_a_key_that_anybody_can_read_fails(store: str, folder: Path) -> None:
    """The remedy can be pasted; the group may read it, as that of a Secret's files."""
    file = next(folder.iterdir())
    file.chmod(0o644)
    found = looked(store, folder)
    assert (found.kind, found.remedy) == (Kind.FAIL, f"chmod 600 {file}")
    file.chmod(0o440)
    assert looked(store, folder).kind is Kind.OK


def test_a_file_that_is_no_key_fails(store: str, folder: Path) -> None:
    """By its name."""
    (folder / "broken.pem").write_text("-----BEGIN")
    found = looked(store, folder)
    assert (found.kind, "broken.pem is no Ed25519 key" in found.said) == (Kind.FAIL, True)


def test_one_key_alone_has_none_to_follow_it(store: str, tmp_path: Path) -> None:
    """A receiver would not know its successor."""
    make_key(tmp_path / "one")
    assert looked(store, tmp_path / "one").kind is Kind.WARN
    publish(store, tmp_path / "one")
    found = looked(store, tmp_path / "one")
    assert (found.kind, "no next key" in found.said) == (Kind.WARN, True)


def test_a_key_that_signs_elsewhere_is_missed(store: str, folder: Path) -> None:
    """This folder was not copied from there."""

    async def put(opened: Store) -> None:
        elsewhere = PublicKey(kid="there", x="AAAA", state=KeyState.ACTIVE)
        await opened.put_signing_keys([elsewhere])

    run_with_store(store, put)
    found = looked(store, folder)
    assert (found.kind, found.remedy.startswith("bring there.pem")) == (Kind.WARN, True)


def test_another_key_under_a_published_name_fails(store: str, folder: Path) -> None:
    """Receivers would look for the wrong one."""
    publish(store, folder)
    one, other = sorted(folder.iterdir())
    one.write_bytes(other.read_bytes())
    found = looked(store, folder)
    assert (found.kind, "another webhook key is published" in found.said) == (Kind.FAIL, True)


def test_without_keys(store: str, tmp_path: Path) -> None:
    """They are made where one place is shared by all; else they are missed."""
    assert looked(store, tmp_path / "none").kind is Kind.OK
    found = looked(store, Path("/dev/null/webhooks"))
    assert (found.kind, "openssl genpkey" in found.remedy) == (Kind.FAIL, True)
    several = safely(lambda: webhook_keys(of("postgresql://127.0.0.1:1/f", tmp_path / "none")))
    assert (several.kind, "each node would make its own" in several.said) == (Kind.WARN, True)
    assert not (tmp_path / "none").exists()
