"""`florence webhooks`: deliveries are listed and sent again, keys are rotated."""

import json
import os
from pathlib import Path

import pytest

from deployments.cli.options import run_with_store
from deployments.cli.webhooks import duration
from deployments.jobs.access import Access
from deployments.jobs.job import JobOutcome, Submission
from deployments.jobs.store import Store
from deployments.webhooks.signing import make_key, read_keys
from deployments.webhooks.webhook import DeliveryResult
from tests.cli.conftest import Florence, made_store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An empty store of the test's own."""
    return made_store(tmp_path / "hooks.db")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of the test's own."""
    return tmp_path / "keys"


async def end(store: Store, request_id: str) -> None:
    """A request that wants a webhook, and is done."""
    await store.submit(
        Submission(
            id=request_id,
            key_id="kid",
            path="caption",
            input="{}",
            webhook_url=f"http://hooks.example/[bold]{request_id}",
        )
    )
    [claimed] = await store.claim("worker", 1, 60.0)
    assert await store.finish(claimed.lease, JobOutcome.done({"results": "a cat"}))


async def record(store: Store, request_id: str, result: DeliveryResult) -> None:
    """Attempt to deliver a webhook, with this result."""
    [found] = [each for each in await store.claim_webhooks(9, 60.0) if each.id == request_id]
    assert await store.record_delivery(found.id, found.token, result)


async def fill(store: Store) -> None:
    """One webhook of each kind, and one that waits for its second try."""
    await end(store, "arrived")
    await record(store, "arrived", DeliveryResult(status=200))
    await end(store, "refused")
    await record(store, "refused", DeliveryResult(status=302, error="the receiver redirects (302)"))
    await end(store, "later")
    await record(
        store,
        "later",
        DeliveryResult(status=500, error="the receiver answered 500", retry_s=3000.0),
    )
    await end(store, "fresh")


def test_webhooks_are_listed(florence: Florence, url: str) -> None:
    """A row for each, with what came of it and what comes next; newest first."""
    assert "No webhooks." in florence("webhooks", "list", "--store", url).out
    run_with_store(url, fill, Access.MIGRATE)
    left = florence("webhooks", "list", "--store", url)
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in left.out.splitlines()]
    shown = [row for row in rows if row and row[0]]

    assert left.code == 0
    assert shown == [
        ["fresh", "http://hooks.example/[bold]fresh", "pending", "0", "–", "now"],
        [
            "later",
            "http://hooks.example/[bold]later",
            "pending",
            "1",
            "the receiver answered 500",
            "in 50 min",
        ],
        [
            "refused",
            "http://hooks.example/[bold]refused",
            "dead",
            "1",
            "the receiver redirects (302)",
            "–",
        ],
        ["arrived", "http://hooks.example/[bold]arrived", "delivered", "1", "200", "–"],
    ]


@pytest.mark.parametrize(
    ("flags", "ids"),
    [
        ([], ["fresh", "later", "refused", "arrived"]),
        (["--pending"], ["fresh", "later"]),
        (["--delivered"], ["arrived"]),
        (["--dead"], ["refused"]),
    ],
    ids=lambda each: " ".join(each),
)
def test_a_list_for_programs(
    florence: Florence, url: str, flags: list[str], ids: list[str]
) -> None:
    """One state or all, as JSON, without the bodies."""
    run_with_store(url, fill, Access.MIGRATE)
    listed = json.loads(florence("webhooks", "list", "--json", *flags, "--store", url).out)

    assert [each["id"] for each in listed] == ids
    for each in listed:
        assert each["key_id"] == "kid"
        assert "body" not in each
        assert each["created_at"].endswith("+00:00")
        assert (each["next_at"] is None) == (each["state"] != "pending")


def test_states_exclude_each_other(florence: Florence, url: str) -> None:
    """One line says so."""
    left = florence("webhooks", "list", "--dead", "--pending", "--store", url)
    assert (left.code, left.out) == (2, "")
    assert "--pending, --delivered and --dead exclude each other" in left.err


@pytest.mark.parametrize("webhook_id", ["refused", "arrived"])
def test_a_settled_webhook_is_sent_again(florence: Florence, url: str, webhook_id: str) -> None:
    """It is due at once, with all its attempts before it."""
    run_with_store(url, fill, Access.MIGRATE)
    left = florence("webhooks", "retry", webhook_id, "--store", url)
    listed = json.loads(florence("webhooks", "list", "--pending", "--json", "--store", url).out)
    [found] = [each for each in listed if each["id"] == webhook_id]

    assert (left.code, left.out) == (0, f"{webhook_id} is due now.\n")
    assert found["attempts"] == 0


@pytest.mark.parametrize("webhook_id", ["unknown", "fresh"])
def test_others_are_not_sent_again(florence: Florence, url: str, webhook_id: str) -> None:
    """There is none, or it is to be sent anyway; one line says where to look."""
    run_with_store(url, fill, Access.MIGRATE)
    left = florence("webhooks", "retry", webhook_id, "--store", url)
    assert (left.code, left.out) == (2, "")
    assert f"no dead or delivered webhook {webhook_id}: see `florence webhooks list`" in left.err


def test_keys_take_turns(florence: Florence, url: str, keys: Path) -> None:
    """A rotation is refused for a day, then the next key signs and another one is next."""
    where = ("--store", url, "--keys", str(keys))
    early = florence("webhooks", "rotate", *where)
    assert (early.code, early.out) == (2, "")
    assert "rotate then, or at once with --now" in early.err
    forced = florence("webhooks", "rotate", "--now", *where)
    shown = florence("webhooks", "keys", *where)
    rows = [
        [cell.strip() for cell in row.split("│")[1:-1]]
        for row in shown.out.splitlines()
        if "│" in row
    ]

    assert forced.code == 0
    assert [row[1] for row in rows] == ["active", "next", "retired"]
    assert {row[0] for row in rows} == set(read_keys(keys))
    assert {row[3] for row in rows} == {key.x for key in read_keys(keys).values()}
    assert forced.out.splitlines() == [
        f"{rows[0][0]} signs from now on.",
        f"{rows[2][0]} is retired, and published until its webhooks have been read.",
        f"{rows[1][0]} is next; receivers know it in a day.",
    ]


def test_a_rotation_of_a_secret(
    florence: Florence, url: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no key can be made, the error says to add one."""
    made = sorted(make_key(keys).kid for _ in range(2))
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    left = florence("webhooks", "rotate", "--now", "--store", url, "--keys", str(keys))

    assert left.code == 0
    assert left.out.splitlines()[0] == f"{made[1]} signs from now on."
    assert "cannot be written: add a key there a day before" in left.out
    assert sorted(read_keys(keys)) == made


def test_keys_that_are_elsewhere(florence: Florence, url: str, keys: Path, tmp_path: Path) -> None:
    """Their public halves are known on every machine, their private halves are not."""
    assert "No keys" in florence("webhooks", "keys", "--store", url, "--keys", str(keys)).out
    florence("webhooks", "rotate", "--now", "--store", url, "--keys", str(keys))
    shown = florence("webhooks", "keys", "--store", url, "--keys", str(tmp_path / "other")).out

    assert shown.count("elsewhere") == 3
    assert not (tmp_path / "other").exists()


def test_the_local_services_store_and_keys(florence: Florence, tmp_path: Path) -> None:
    """Without options both are in the state folder, where `serve` has them."""
    other = tmp_path / "other"
    for words in ((), ("--state", str(other))):
        assert florence("store", "migrate", *words).code == 0
    assert florence("webhooks", "rotate", "--now").code == 0
    assert (tmp_path / "florence" / "queue.db").is_file()
    assert len(read_keys(tmp_path / "florence" / "webhooks")) == 3
    assert florence("webhooks", "rotate", "--now", "--state", str(other)).code == 0
    assert len(read_keys(other / "webhooks")) == 3


def test_the_environments_store(
    florence: Florence, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLORENCE_STORE stands for --store."""
    run_with_store(url, fill, Access.MIGRATE)
    monkeypatch.setenv("FLORENCE_STORE", url)
    assert "arrived" in florence("webhooks", "list").out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (1, "1 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h"), (200_000, "2 d")],
)
def test_times_have_one_unit(seconds: float, text: str) -> None:
    """A person wants to know about when."""
    assert duration(seconds) == text
