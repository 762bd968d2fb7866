"""`florence keys`: creates, lists, rotates and revokes API keys."""

import json
import re
import secrets
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.cli.options import (
    JsonOption,
    StateOption,
    StoreOption,
    command_group,
    iso,
    minute,
    run_with_store,
    store_url,
    time_after,
)
from deployments.errors import SetupError
from deployments.jobs.access import Access
from deployments.jobs.api_key import ApiKey
from deployments.jobs.store import Store
from deployments.local.state import KEY_PREFIX
from deployments.settings import hash_key

RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(?:/([smh]))?")
PER_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

app = command_group("Create, list, rotate and revoke API keys.")
KeyId = Annotated[
    str, typer.Argument(metavar="ID", help="The key's id, as in `florence keys list`.")
]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who uses it.")] = "",
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, help="Requests that may run at the same time.", show_default="unbounded"
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="Rate limit: 5/s, 300/m, 1000/h.", show_default="unbounded"),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it expires: 30d, 12h or a date.", show_default="never")
    ] = None,
    adapter: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The adapter of its requests, unless they name another.",
            show_default="none",
        ),
    ] = "",
    as_json: JsonOption = False,
    store: StoreOption = None,
    state: StateOption = None,
) -> None:
    """Create a key, and print it. It is not shown again."""
    limit = None if rate is None else per_second(rate)
    id_ = secrets.token_hex(4)
    secret = fresh_secret(id_)
    key = ApiKey(
        id=id_,
        hash=hash_key(secret),
        name=name,
        concurrency=concurrency,
        rate=limit,
        adapter=adapter,
    )
    url = store_url(store, state)
    made = run_with_store(url, lambda opened: add_key(opened, key, expires), Access.WRITE)
    show_secret(secret, as_tree(made, "valid"), as_json)


@app.command("list")
def list_(
    as_json: JsonOption = False, store: StoreOption = None, state: StateOption = None
) -> None:
    """List all keys. Their secrets are not stored."""

    async def read(opened: Store) -> tuple[list[ApiKey], float]:
        return await opened.keys(), await opened.now()

    keys, now = run_with_store(store_url(store, state), read)
    if as_json:
        typer.echo(json.dumps([as_tree(key, state_of(key, now)) for key in keys], indent=2))
        return
    Console().print(table(keys, now) if keys else "No keys: make one with `florence keys create`.")


@app.command()
def revoke(id_: KeyId, store: StoreOption = None, state: StateOption = None) -> None:
    """Revoke a key. It is refused within 5 seconds."""
    url = store_url(store, state)
    if not run_with_store(url, lambda opened: opened.revoke_key(id_), Access.WRITE):
        raise missing(id_)
    typer.echo(f"{id_} is revoked; it is refused everywhere within 5 s.")


@app.command()
def rotate(
    id_: KeyId, as_json: JsonOption = False, store: StoreOption = None, state: StateOption = None
) -> None:
    """Give a key a new secret, and print it. The old one is refused within 5 seconds."""
    secret = fresh_secret(id_)
    url, hash_ = store_url(store, state), hash_key(secret)
    if not run_with_store(url, lambda opened: opened.replace_key_hash(id_, hash_), Access.WRITE):
        raise missing(id_)
    show_secret(secret, {"id": id_}, as_json)


async def add_key(store: Store, key: ApiKey, expires: str | None) -> ApiKey:
    """Store a key, with its times on the store's clock, and return it."""
    now = await store.now()
    expires_at = None if expires is None else time_after(now, expires)
    dated = replace(key, created_at=now, expires_at=expires_at)
    await store.add_key(dated)
    return dated


def fresh_secret(id_: str) -> str:
    """A new key in full, in fal's form of two parts."""
    return f"{KEY_PREFIX}{id_}:{secrets.token_hex(16)}"


def per_second(text: str) -> float:
    """The rate in `300/m`, in requests per second; without a unit it is that already.

    Raises:
        SetupError: it is none.
    """
    found = RATE.fullmatch(text.strip())
    if not found or float(found[1]) == 0:
        raise SetupError(f"{text} is no rate: write --rate 5/s, 300/m or 1000/h")
    return float(found[1]) / PER_S[found[2] or "s"]


def missing(id_: str) -> SetupError:
    """The error for a key that does not exist, or is revoked."""
    return SetupError(f"no valid key {id_}: see `florence keys list`")


def state_of(key: ApiKey, now: float) -> str:
    """`valid`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "valid" if key.is_valid(now) else "expired"


def as_tree(key: ApiKey, state: str) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "concurrency": key.concurrency,
        "rate": key.rate,
        "adapter": key.adapter or None,
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "revoked_at": iso(key.revoked_at),
        "state": state,
    }


def show_secret(secret: str, about: dict[str, Any], as_json: bool) -> None:
    """Print a key in full, the only time. The note about it goes to standard error."""
    if as_json:
        typer.echo(json.dumps({"key": secret} | about, indent=2))
        return
    typer.echo(secret)
    typer.echo("Keep it: it is not shown again, and only its hash is stored.", err=True)


def table(keys: list[ApiKey], now: float) -> Table:
    adapted = any(key.adapter for key in keys)
    more = ["adapter"] if adapted else []
    shown = Table("id", "name", "limits", *more, "created", "expires", "state")
    for key in keys:
        times = minute(key.created_at), minute(key.expires_at)
        about = [
            escape(key.name),
            limits_of(key),
            *([escape(key.adapter) or "–"] if adapted else []),
        ]
        shown.add_row(key.id, *about, *times, state_of(key, now))
    return shown


def limits_of(key: ApiKey) -> str:
    bounds = [
        f"{key.concurrency} at a time" if key.concurrency is not None else "",
        f"{key.rate:g}/s" if key.rate is not None else "",
    ]
    return ", ".join(filter(None, bounds)) or "–"
