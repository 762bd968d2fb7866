"""Packages, stores, files and keys: as they should be, missing, broken or out of date."""

import asyncio
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from deployments import __version__
from deployments.cli.doctor import local as module
from deployments.cli.doctor.check import Finding, Level, run_safely
from deployments.cli.doctor.local import (
    Setup,
    check_clock,
    check_files,
    check_keys,
    check_store,
    check_versions,
    check_webhook_keys,
    clock_finding,
    compare_versions,
    installed,
    store_finding,
)
from deployments.cli.options import run_with_store
from deployments.jobs.access import Access
from deployments.jobs.api_key import ApiKey
from deployments.jobs.open import StoreInfo
from deployments.jobs.sql import migrations
from deployments.jobs.store import Store
from deployments.settings import WebhookSettings, hash_key
from deployments.webhooks.signing import SigningKeys, make_key
from deployments.webhooks.webhook import KeyState, PublicKey
from tests.cli.doctor.conftest import setup_of, sqlite_at
from tests.jobs.postgres import Bench, with_schema


def test_what_is_installed_here_is_what_is_pinned() -> None:
    """Packages that only the tests need are not checked."""
    assert check_versions().level is Level.OK
    assert f"florence {__version__}" in check_versions().said
    assert all(f", {name} " in check_versions().said for name in ("ray", "torch", "transformers"))


def test_another_version_fails() -> None:
    """The remedy can be pasted."""
    found = compare_versions({"ray": "2.60.0", "torch": "2.13.0"}, {"ray": "2.59.1", "torch": ""})
    assert found.level is Level.FAIL
    assert found.said == "ray 2.59.1, torch is missing"
    assert found.remedy == "pip install ray==2.60.0 torch==2.13.0"


def test_a_package_that_is_not_there_has_no_version() -> None:
    """And a build's own mark is none of it."""
    assert installed("no-such-package") == ""
    assert "+" not in installed("torch")


LATEST = len(migrations("sqlite"))


@pytest.fixture
def store_file(tmp_path: Path) -> Path:
    """A store of this release."""
    made = tmp_path / "queue.db"

    async def ask(opened: Store) -> float:
        return await opened.now()

    run_with_store(f"sqlite:///{made}", ask, Access.MIGRATE)
    return made


def store_at(file: Path) -> Finding:
    """What the check says of a file."""
    return run_safely(lambda: check_store(sqlite_at(file)))


def set_version(file: Path, number: int) -> None:
    """Let a file be of another release."""
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA user_version = {number}")
    connection.close()


def version_of(file: Path) -> int:
    """The schema that a file has."""
    with sqlite3.connect(file) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(found)


def test_a_store_of_this_release_is_fine(store_file: Path) -> None:
    """With its schema."""
    found = store_at(store_file)
    assert (found.level, found.said) == (
        Level.OK,
        f"sqlite:///{store_file}, SQLite, schema {LATEST}",
    )


def test_a_store_that_is_not_there_is_made_later(tmp_path: Path) -> None:
    """Not by a check."""
    found = store_at(tmp_path / "deep" / "queue.db")
    assert found.level is Level.OK
    assert "is made at the first start" in found.said
    assert list(tmp_path.iterdir()) == []


def test_an_older_store_is_left_as_it_is(store_file: Path) -> None:
    """It will be migrated, so there is something to do before."""
    set_version(store_file, 1)
    found = store_at(store_file)
    assert found.level is Level.WARN
    assert f"schema 1 of {LATEST}" in found.said
    assert "back it up" in found.remedy
    assert version_of(store_file) == 1


def test_a_newer_store_fails(store_file: Path) -> None:
    """This release would not start on it."""
    set_version(store_file, LATEST + 1)
    found = store_at(store_file)
    assert found.level is Level.FAIL
    assert f"schema {LATEST + 1} of a newer release" in found.said
    assert "run the newer release" in found.remedy


def test_a_file_of_another_program_fails(tmp_path: Path) -> None:
    """It has tables, and not our mark."""
    file = tmp_path / "photos.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE photo (id)")
    connection.close()
    assert store_at(file).level is Level.FAIL
    assert "the database of another program" in store_at(file).said


def test_a_broken_file_fails(tmp_path: Path) -> None:
    """With what to do about it."""
    file = tmp_path / "queue.db"
    file.write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    assert store_at(file).level is Level.FAIL
    assert "restore a backup" in store_at(file).said


def test_a_place_where_no_file_can_be_fails() -> None:
    """Found out without trying."""
    found = store_at(Path("/dev/null/queue.db"))
    assert found.level is Level.FAIL
    assert "/dev/null cannot be written; make it writable" in found.said


def test_a_store_in_memory_is_forgotten() -> None:
    """The check warns about it."""
    assert check_store(setup_of({"store": {"url": "memory:"}})).level is Level.WARN


def test_a_file_on_another_node_is_not_checked(tmp_path: Path) -> None:
    """The service has it, wherever that runs."""
    there = setup_of({"store": {"url": f"sqlite:///{tmp_path}/queue.db"}}, is_elsewhere=True)
    assert check_store(there).level is Level.SKIP


def test_a_server_that_is_away_fails() -> None:
    """Without its password in the line."""
    away = setup_of({"store": {"url": "postgresql://anna:secret@127.0.0.1:1/florence"}})
    found = run_safely(lambda: check_store(away))
    assert found.level is Level.FAIL
    assert "127.0.0.1:1" in found.said
    assert "that the server runs" in found.said
    assert "secret" not in found.said


def test_a_server_that_is_far_away_is_reported() -> None:
    """Each submit waits for it several times."""
    found = store_finding("postgresql://db", StoreInfo("PostgreSQL 16", 2, 2, answer_s=0.2))
    assert found.level is Level.WARN
    assert "answers in 200 ms" in found.said


@pytest.fixture
def empty_schema(postgres: str) -> Iterator[str]:
    """The URL of a schema without tables."""
    name = f"test_{secrets.token_hex(8)}"

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(postgres)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run(f"CREATE SCHEMA {name}"))
    yield with_schema(postgres, name)
    asyncio.run(run(f"DROP SCHEMA {name} CASCADE"))


def test_an_empty_database_is_fine(empty_schema: str) -> None:
    """It is still empty after the check."""
    empty = setup_of({"store": {"url": empty_schema}})
    for _ in range(2):
        found = check_store(empty)
        assert found.level is Level.OK
        assert "empty, the first start makes its tables" in found.said
    assert check_clock(empty).level is Level.SKIP


@pytest.mark.anyio
async def test_a_database_has_a_schema_and_a_clock(bench: Bench) -> None:
    """Of this release, of a newer and of an older one; in time, and not."""
    here = setup_of({"store": {"url": bench.url}})
    found = await asyncio.to_thread(check_store, here)
    assert found.level is Level.OK
    assert "PostgreSQL" in found.said
    assert "answers in" in found.said
    assert (await asyncio.to_thread(check_clock, here)).said == "that of the database agrees"

    await bench.advance(90)
    off = await asyncio.to_thread(check_clock, here)
    assert (off.level, "NTP" in off.remedy) == (Level.FAIL, True)
    assert "90.0 s before ours" in off.said

    await bench.connection.execute("INSERT INTO schema_version VALUES (99)")
    assert (await asyncio.to_thread(check_store, here)).level is Level.FAIL
    await bench.connection.execute("DELETE FROM schema_version WHERE number > 1")
    assert (await asyncio.to_thread(check_store, here)).level is Level.WARN
    assert await bench.connection.fetchval("SELECT max(number) FROM schema_version") == 1


@pytest.mark.parametrize(
    ("ahead_s", "resolution_s", "level"),
    [
        (0.1, 0.0, Level.OK),
        (-1.9, 0.0, Level.OK),
        (2.5, 1.0, Level.OK),
        (2.5, 0.0, Level.WARN),
        (-61.0, 0.0, Level.FAIL),
    ],
)
def test_clocks_may_differ_a_little(ahead_s: float, resolution_s: float, level: Level) -> None:
    """Not more than they were read by."""
    assert clock_finding("it", ahead_s, resolution_s).level is level


ROOT = Path(__file__).parents[3]


def files_at(root: object) -> Finding:
    """What the check says of a place."""
    return run_safely(lambda: check_files(setup_of({"files": {"root": str(root)}})))


def left_in(folder: Path) -> list[Path]:
    """The files below a folder."""
    return [each for each in folder.rglob("*") if each.is_file()]


def test_a_folder_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    """The probe is gone."""
    found = files_at(tmp_path)
    assert found.level is Level.OK
    assert "is writable" in found.said
    assert left_in(tmp_path) == []


def test_a_folder_that_is_not_there_is_made_later(tmp_path: Path) -> None:
    """Not by a check."""
    assert files_at(tmp_path / "a" / "b").level is Level.OK
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_fails() -> None:
    """With what to change."""
    found = files_at("/dev/null/files")
    assert found.level is Level.FAIL
    assert "/dev/null is no folder that can be written" in found.said
    assert "files.root" in found.remedy


# In a process of its own, as the limit holds for whatever the tests write, too.
NO_BYTE_MORE = """
import resource, sys
from tests.cli.doctor.test_local import files_at
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # as on a full disk
found = files_at(sys.argv[1])
print(found.level, found.said)
"""


def test_a_folder_that_takes_nothing_fails(tmp_path: Path) -> None:
    """The reason is the system's."""
    done = subprocess.run(
        [sys.executable, "-c", NO_BYTE_MORE, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    said = f"fail {tmp_path} cannot be written: [Errno 27] File too large"
    assert done.stdout.startswith(said)
    assert left_in(tmp_path) == []


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is."""
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 1 << 80)
    assert files_at(tmp_path).level is Level.WARN


def test_a_bucket_is_written(bucket: str) -> None:
    """And read and deleted from."""
    found = files_at(f"s3://{bucket}/florence")
    assert (found.level, "written, read and deleted" in found.said) == (Level.OK, True)


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_fails() -> None:
    """With what to change."""
    found = files_at("s3://nowhere-at-all/florence")
    assert found.level is Level.FAIL
    assert "create the bucket" in found.said


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

    run_with_store(url, ask, Access.MIGRATE)
    return url


def setup_with(store: str, folder: Path | str = "/nowhere", hashes: tuple[str, ...] = ()) -> Setup:
    """A setup with these keys."""
    tree = {"store": {"url": store}, "keys": {"hashes": hashes}, "webhooks": {"keys": str(folder)}}
    return setup_of(tree)


def webhook_keys_in(store: str, folder: Path) -> Finding:
    """What the check says of webhook keys."""
    return run_safely(lambda: check_webhook_keys(setup_with(store, folder)))


def test_a_key_in_the_settings_is_enough(store: str) -> None:
    """And one in a store that is not to be seen is not looked for."""
    found = check_keys(setup_with(store, hashes=(hash_key("k"),)))
    assert (found.level, found.said) == (Level.OK, "1 in the settings, 0 in the store")
    assert (
        check_keys(setup_with("memory:", hashes=(hash_key("k"),))).said
        == "1 in the settings, ? in the store"
    )


def test_a_key_in_the_store_is_enough_while_it_is_valid(store: str) -> None:
    """Not when it was revoked."""

    async def add(opened: Store) -> None:
        await opened.add_key(ApiKey(id="a", hash="h"))

    async def revoke(opened: Store) -> bool:
        return await opened.revoke_key("a")

    run_with_store(store, add, Access.MIGRATE)
    assert check_keys(setup_with(store)).said == "0 in the settings, 1 in the store"
    run_with_store(store, revoke, Access.MIGRATE)
    assert check_keys(setup_with(store)).level is Level.WARN


def test_without_a_key_no_call_is_possible(store: str) -> None:
    """But `florence serve` makes one."""
    found = check_keys(setup_with(store))
    assert (found.level, found.said) == (Level.WARN, "there is none, so no client can call")
    assert "florence keys create" in found.remedy
    assert check_keys(replace(setup_with(store), is_laptop=True)).level is Level.OK


def test_two_webhook_keys_are_fine(store: str, folder: Path) -> None:
    """Before a first start, and after it."""
    assert webhook_keys_in(store, folder).said == f"2 in {folder}"
    publish(store, folder)
    assert webhook_keys_in(store, folder).said == f"2 in {folder}"


def publish(store: str, folder: Path) -> None:
    """What a first start does."""

    async def ensure(opened: Store) -> int:
        return len(await SigningKeys(WebhookSettings(keys=str(folder)), opened).ensure())

    run_with_store(store, ensure, Access.MIGRATE)


def test_a_key_that_anybody_can_read_fails(store: str, folder: Path) -> None:
    """The remedy can be pasted; the group may read it, as that of a Secret's files."""
    file = next(folder.iterdir())
    file.chmod(0o644)
    found = webhook_keys_in(store, folder)
    assert (found.level, found.remedy) == (Level.FAIL, f"chmod 600 {file}")
    file.chmod(0o440)
    assert webhook_keys_in(store, folder).level is Level.OK


def test_a_file_that_is_no_key_fails(store: str, folder: Path) -> None:
    """By its name."""
    (folder / "broken.pem").write_text("-----BEGIN")
    found = webhook_keys_in(store, folder)
    assert (found.level, "broken.pem is no Ed25519 key" in found.said) == (Level.FAIL, True)


def test_one_key_alone_has_none_to_follow_it(store: str, tmp_path: Path) -> None:
    """A receiver would not know its successor."""
    make_key(tmp_path / "one")
    assert webhook_keys_in(store, tmp_path / "one").level is Level.WARN
    publish(store, tmp_path / "one")
    found = webhook_keys_in(store, tmp_path / "one")
    assert (found.level, "no next key" in found.said) == (Level.WARN, True)


def test_a_key_that_signs_elsewhere_is_missed(store: str, folder: Path) -> None:
    """This folder was not copied from there."""

    async def put(opened: Store) -> None:
        elsewhere = PublicKey(kid="there", x="AAAA", state=KeyState.ACTIVE)
        await opened.put_signing_keys([elsewhere])

    run_with_store(store, put, Access.MIGRATE)
    found = webhook_keys_in(store, folder)
    assert (found.level, found.remedy.startswith("bring there.pem")) == (Level.WARN, True)


def test_another_key_under_a_published_name_fails(store: str, folder: Path) -> None:
    """Receivers would look for the wrong one."""
    publish(store, folder)
    one, other = sorted(folder.iterdir())
    one.write_bytes(other.read_bytes())
    found = webhook_keys_in(store, folder)
    assert (found.level, "another webhook key is published" in found.said) == (Level.FAIL, True)


def test_without_keys(store: str, tmp_path: Path) -> None:
    """They are made where one place is shared by all; else they are missed."""
    assert webhook_keys_in(store, tmp_path / "none").level is Level.OK
    found = webhook_keys_in(store, Path("/dev/null/webhooks"))
    assert (found.level, "openssl genpkey" in found.remedy) == (Level.FAIL, True)
    several = run_safely(
        lambda: check_webhook_keys(setup_with("postgresql://127.0.0.1:1/f", tmp_path / "none"))
    )
    assert (several.level, "each node would make its own" in several.said) == (Level.WARN, True)
    assert not (tmp_path / "none").exists()
