"""`florence store`: what is in a store, and everything of it in another."""

from pathlib import Path

import pytest

from deployments.cli.options import run_with_store, without_password
from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.access import Access
from deployments.jobs.api_key import ApiKey
from deployments.jobs.job import Submission
from deployments.jobs.sql import migrations
from deployments.jobs.sqlite.file import lock
from deployments.jobs.store import Store
from tests.cli.conftest import Florence, Outcome


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with three requests, one of them cancelled and so counted, and a key."""
    url = f"sqlite:///{tmp_path / 'full.db'}"

    async def fill(store: Store) -> None:
        for id_ in ("r1", "r2", "r3"):
            await store.submit(Submission(id=id_, key_id="k", path="caption", input="{}"))
        await store.cancel("k", "r2")
        await store.add_key(ApiKey(id="k", hash="h"))

    run_with_store(url, fill, Access.MIGRATE)
    return url


def counts(left: Outcome) -> dict[str, int]:
    """The numbers in the table."""
    rows = [line.split("│") for line in left.out.splitlines() if "│" in line]
    return {row[1].strip(): int(row[2]) for row in rows}


def test_a_check_says_what_is_there(florence: Florence, url: str) -> None:
    """Requests by state, rows of the other tables, and the version of the schema."""
    left = florence("store", "check", "--store", url)
    assert left.code == 0
    assert f"{url}, schema version " in left.out
    assert counts(left) == {
        "requests queued": 2,
        "requests running": 0,
        "requests done": 0,
        "requests error": 0,
        "requests cancelled": 1,
        "webhook": 0,
        "api key": 1,
        "usage": 1,
        "signing key": 0,
        "secret": 0,
    }


def test_a_migration_makes_the_local_store(florence: Florence, tmp_path: Path) -> None:
    """Where there was none; a second one has nothing to do."""
    file = tmp_path / "florence" / "queue.db"
    latest = len(migrations("sqlite"))
    first, second = florence("store", "migrate"), florence("store", "migrate")
    assert first.out == f"sqlite:///{file} is made, with schema {latest}.\n"
    assert second.out == f"sqlite:///{file} has schema {latest} already.\n"
    assert file.is_file()


def test_a_store_in_use_is_not_migrated(florence: Florence, url: str) -> None:
    """Its service would be surprised."""
    with lock(Path(url.removeprefix("sqlite:///"))):
        left = florence("store", "migrate", "--store", url)
    assert left.code == 2
    assert "another service has it open; stop that one" in left.err


def test_a_copy_is_complete(florence: Florence, url: str, tmp_path: Path) -> None:
    """Both stores answer alike afterwards; the line says how many rows went over."""
    target = f"sqlite:///{tmp_path / 'copy.db'}"
    left = florence("store", "copy", url, target)
    assert (left.code, left.out) == (0, f"Copied 5 rows from {url} to {target}.\n")
    there, here = (florence("store", "check", "--store", each) for each in (url, target))
    assert counts(there) == counts(here)


def test_a_copy_over_something_is_refused(florence: Florence, url: str) -> None:
    """Also over itself."""
    left = florence("store", "copy", url, url)
    assert (left.code, left.out) == (2, "")
    assert "the target has 3 rows in request: copy into an empty store" in left.err


def test_a_source_that_is_not_there_is_refused(florence: Florence, tmp_path: Path) -> None:
    """A wrong name makes no empty file and no empty copy."""
    nowhere, target = (f"sqlite:///{tmp_path / name}" for name in ("nowhere.db", "copy.db"))
    left = florence("store", "copy", nowhere, target)
    assert left.code == 2
    assert f"store {tmp_path / 'nowhere.db'}: there is none" in left.err
    assert list(tmp_path.glob("*.db")) == []


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("memory:", "store memory: lives in its service alone: give another with --store"),
        ("queue.db", "queue.db is no store: write --store postgresql://… or sqlite:///FILE"),
        ("postgresql://a:b@127.0.0.1:1/c", "127.0.0.1:1"),
        ("sqlite:////dev/null/all.db", "/dev/null/all.db: there is none"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line(florence: Florence, url: str, line: str) -> None:
    """Exit code 2, no password, and what to change."""
    left = florence("store", "check", "--store", url)
    assert (left.code, left.out) == (2, "")
    [complaint] = left.err.splitlines()
    assert line in complaint
    assert "a:b" not in complaint


def test_a_store_that_is_lost_on_the_way_is_one_line(url: str) -> None:
    """It is closed all the same."""

    async def lose(_store: Store) -> None:
        raise StoreUnavailable

    with pytest.raises(SetupError, match="does not answer: The queue cannot be reached"):
        run_with_store(url, lose)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://anna:secret@db:5432/florence", "postgresql://db:5432/florence"),
        ("postgresql://db/florence?password=secret", "postgresql://db/florence"),
        ("postgres://anna:se@cret@db/florence", "postgres://db/florence"),
        ("sqlite:////var/lib/queue@home.db", "sqlite:////var/lib/queue@home.db"),
        ("postgresql://anna:secret@/florence?host=/run/pg", "postgresql:///florence"),
        ("postgresql://[secret", "this URL"),
    ],
)
def test_passwords_are_not_shown(url: str, expected: str) -> None:
    """The output contains the host at most."""
    assert expected == without_password(url)
