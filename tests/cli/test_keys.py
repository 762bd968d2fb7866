"""`florence keys`: a secret is shown once, limits are kept, who is revoked stays out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.keys import limits_of, per_second, state_of
from deployments.cli.options import run_with_store
from deployments.errors import SetupError
from deployments.jobs.api_key import ApiKey
from deployments.settings import hash_key
from tests.cli.conftest import Florence, made_store

DAY_S = 86_400


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An empty store of the test's own."""
    return made_store(tmp_path / "keys.db")


def opens(url: str, secret: str) -> ApiKey | None:
    """The key that the service finds behind a secret."""
    return run_with_store(url, lambda store: store.key_by_hash(hash_key(secret)))


def created(florence: Florence, *words: str) -> dict[str, Any]:
    """What `create --json` says."""
    made: dict[str, Any] = json.loads(florence("keys", "create", "--json", *words).out)
    return made


def test_a_key_is_printed_once_and_is_accepted(florence: Florence, url: str) -> None:
    """Standard output is the key alone, in fal's form; the note is on standard error."""
    left = florence("keys", "create", "--store", url, "--name", "anna")
    secret = left.out.strip()
    found = opens(url, secret)
    assert left.code == 0
    assert re.fullmatch(r"florence-[0-9a-f]{8}:[0-9a-f]{32}", secret)
    assert "not shown again" in left.err
    assert found
    assert (found.name, found.id) == ("anna", secret.removeprefix("florence-").split(":")[0])


def test_no_secret_is_stored(florence: Florence, url: str) -> None:
    """Neither the file nor the list has it."""
    made = created(florence, "--store", url)
    secret = made["key"].split(":")[1]
    assert secret not in florence("keys", "list", "--json", "--store", url).out
    for file in Path(url.removeprefix("sqlite:///")).parent.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_a_key_has_the_limits_that_it_was_given(florence: Florence, url: str) -> None:
    """Concurrency, rate per second and end are stored and are in the JSON."""
    words = ("--concurrency", "4", "--rate", "300/m", "--expires", "30d", "--name", "n")
    made = created(florence, "--store", url, *words)
    found = opens(url, made["key"])
    assert found
    assert (found.concurrency, found.rate) == (4, 5.0)
    assert found.expires_at is not None
    assert found.expires_at - found.created_at == pytest.approx(30 * DAY_S, abs=1)
    shown = {name: made[name] for name in ("id", "name", "concurrency", "rate", "state")}
    assert shown == {"id": found.id, "name": "n", "concurrency": 4, "rate": 5.0, "state": "valid"}


def test_a_key_has_the_adapter_that_it_was_given(florence: Florence, url: str) -> None:
    """It is stored and listed; without any, the list has no column for it."""
    created(florence, "--store", url)
    assert "adapter" not in florence("keys", "list", "--store", url).out
    made = created(florence, "--store", url, "--adapter", "invoices")
    found = opens(url, made["key"])
    assert found
    assert found.adapter == made["adapter"] == "invoices"
    rows = florence("keys", "list", "--store", url).out
    [row] = [line for line in rows.splitlines() if made["id"] in line]
    assert "adapter" in rows
    assert "invoices" in row
    listed = json.loads(florence("keys", "list", "--json", "--store", url).out)
    assert [key["adapter"] for key in listed] == [None, "invoices"]


def test_keys_are_listed_without_their_secrets(florence: Florence, url: str) -> None:
    """A table for people, with all that was ever made and is not forgotten."""
    assert "No keys" in florence("keys", "list", "--store", url).out
    first = created(florence, "--store", url, "--name", "[red]anna", "--rate", "5/s")
    second = created(florence, "--store", url, "--concurrency", "2", "--expires", "2999-01-31")
    florence("keys", "revoke", first["id"], "--store", url)
    left = florence("keys", "list", "--store", url)
    rows = [line for line in left.out.splitlines() if "│" in line]
    [one] = [row for row in rows if first["id"] in row]
    [two] = [row for row in rows if second["id"] in row]
    assert all(word in one for word in ("[red]anna", "5/s", "revoked"))
    assert all(word in two for word in ("2 at a time", "2999-01-31 00:00", "valid"))


def test_the_list_is_json_for_programs(florence: Florence, url: str) -> None:
    """Each key is an object with ISO times and no hash."""
    made = created(florence, "--store", url)
    [listed] = json.loads(florence("keys", "list", "--json", "--store", url).out)
    del made["key"]
    assert made.keys() == listed.keys()
    assert made["id"] == listed["id"]
    assert listed["created_at"].endswith("+00:00")


def test_a_revoked_key_opens_nothing(florence: Florence, url: str) -> None:
    """It is said when that holds everywhere; a second time there is nothing to revoke."""
    made = created(florence, "--store", url)
    left = florence("keys", "revoke", made["id"], "--store", url)
    assert (left.code, "within 5 s" in left.out) == (0, True)
    assert opens(url, made["key"]) is None
    assert florence("keys", "revoke", made["id"], "--store", url).code == 2


def test_a_rotated_key_has_a_new_secret_alone(florence: Florence, url: str) -> None:
    """The old one is refused; the key stays the same one, with its limits."""
    made = created(florence, "--store", url, "--concurrency", "3")
    left = florence("keys", "rotate", made["id"], "--store", url)
    found = opens(url, left.out.strip())
    assert "not shown again" in left.err
    assert opens(url, made["key"]) is None
    assert found
    assert (found.id, found.concurrency) == (made["id"], 3)
    again = json.loads(florence("keys", "rotate", made["id"], "--json", "--store", url).out)
    assert opens(url, again["key"]) == opens(url, again["key"])
    assert again["id"] == made["id"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["revoke", "unknown"], "no valid key unknown: see `florence keys list`"),
        (["rotate", "unknown"], "no valid key unknown: see `florence keys list`"),
        (["create", "--rate", "0/s"], "0/s is no rate: write --rate 5/s"),
        (["create", "--rate", "-1"], "-1 is no rate"),
        (["create", "--rate", "5/d"], "5/d is no rate"),
        (["create", "--rate", "inf"], "inf is no rate"),
        (["create", "--concurrency", "0"], "greater than or equal to 1"),
        (["create", "--expires", "soon"], "soon is no time: write YYYY-MM-DD"),
        (["create", "--expires", "2001-01-31"], "2001-01-31 is in the past: give a later date"),
        (["create", "--expires", "0d"], "0d is in the past"),
        (["list", "--store", "memory:"], "memory: lives in its service alone"),
        (["list", "--store", "mysql://a:secret@b/c"], "mysql://b/c is no store"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(florence: Florence, words: list[str], line: str) -> None:
    """Exit code 2, and what to change."""
    florence("store", "migrate")
    left = florence("keys", *words)
    assert (left.code, left.out) == (2, "")
    [complaint] = left.err.splitlines()
    assert line in complaint
    assert "secret" not in complaint


def test_the_local_services_store_is_the_usual_one(
    florence: Florence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Without --store it is the file in the state folder, or the one in FLORENCE_STORE."""
    other = ("--state", str(tmp_path / "elsewhere"))
    assert (florence("store", "migrate").code, florence("store", "migrate", *other).code) == (0, 0)
    home, elsewhere = created(florence), created(florence, *other)
    monkeypatch.setenv("FLORENCE_STORE", url)
    in_environment = created(florence)
    assert opens(f"sqlite:///{tmp_path}/florence/queue.db", home["key"])
    assert opens(f"sqlite:///{tmp_path}/elsewhere/queue.db", elsewhere["key"])
    assert opens(url, in_environment["key"])


@pytest.mark.parametrize(
    ("text", "expected"), [("5/s", 5.0), ("5", 5.0), ("300/m", 5.0), ("1.5/s", 1.5), ("36/h", 0.01)]
)
def test_rates_are_per_second(text: str, expected: float) -> None:
    """Whatever unit they are written in."""
    assert per_second(text) == pytest.approx(expected)


def test_a_rate_of_nothing_is_none() -> None:
    """A key that may do nothing is a revoked one."""
    with pytest.raises(SetupError):
        per_second("0")


def test_a_key_is_in_one_state() -> None:
    """Revoked before expired, expired before valid."""
    key = ApiKey(id="k", hash="h", expires_at=10.0)
    revoked = ApiKey(id="k", hash="h", expires_at=10.0, revoked_at=5.0)
    states = (state_of(key, 9.0), state_of(key, 10.0), state_of(revoked, 11.0))
    assert states == ("valid", "expired", "revoked")


def test_limits_are_in_words() -> None:
    """A dash is no limit."""
    shown = [
        limits_of(ApiKey(id="k", hash="h", concurrency=concurrency, rate=rate))
        for concurrency, rate in ((None, None), (2, None), (None, 0.5), (2, 5.0))
    ]
    assert shown == ["–", "2 at a time", "0.5/s", "2 at a time, 5/s"]
