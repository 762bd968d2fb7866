"""`florence webhooks`: what became of deliveries, and the keys that sign them."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
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
    state_folder,
    store_url,
)
from deployments.errors import SetupError
from deployments.jobs.access import Access
from deployments.jobs.store import Store
from deployments.settings import WebhookSettings
from deployments.webhooks.signing import KeyRotation, SigningKeys, read_keys
from deployments.webhooks.webhook import PublicKey, Webhook, WebhookState

UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))

app = command_group("List and retry webhooks, and rotate the keys that sign them.")
KeysOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the keys that sign webhooks.",
        show_default="the local service's",
        file_okay=False,
    ),
]


@app.command("list")
def list_(
    pending: Annotated[bool, typer.Option("--pending", help="Only those still to send.")] = False,
    delivered: Annotated[
        bool, typer.Option("--delivered", help="Only those that arrived.")
    ] = False,
    dead: Annotated[bool, typer.Option("--dead", help="Only those given up.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
    state: StateOption = None,
) -> None:
    """List the latest 100 webhooks, or those in one state, newest first."""
    wanted = wanted_state({"pending": pending, "delivered": delivered, "dead": dead})

    async def read(opened: Store) -> tuple[list[Webhook], float]:
        return await opened.webhooks(wanted), await opened.now()

    webhooks, now = run_with_store(store_url(store, state), read)
    if as_json:
        typer.echo(json.dumps([as_tree(webhook) for webhook in webhooks], indent=2))
        return
    Console().print(table(webhooks, now) if webhooks else "No webhooks.")


@app.command()
def retry(
    webhook_id: Annotated[
        str, typer.Argument(metavar="ID", help="The id, as in `florence webhooks list`.")
    ],
    store: StoreOption = None,
    state: StateOption = None,
) -> None:
    """Send a dead or delivered webhook again.

    All its attempts are made anew.
    """
    url = store_url(store, state)
    if not run_with_store(url, lambda opened: opened.retry_webhook(webhook_id), Access.WRITE):
        raise SetupError(f"no dead or delivered webhook {webhook_id}: see `florence webhooks list`")
    typer.echo(f"{webhook_id} is due now.")


@app.command()
def rotate(
    now: Annotated[
        bool, typer.Option("--now", help="Rotate even if receivers may not know the next key yet.")
    ] = False,
    keys: KeysOption = None,
    store: StoreOption = None,
    state: StateOption = None,
) -> None:
    """Sign with the next key from now on.

    A new key is published for the rotation after this one.
    """
    folder = keys_folder(keys, state)

    async def work(opened: Store) -> KeyRotation:
        return await SigningKeys(settings_of(folder), opened).rotate(early=now)

    rotation = run_with_store(store_url(store, state), work, Access.WRITE)
    typer.echo(f"{rotation.active} signs from now on.")
    for retired in rotation.retired:
        typer.echo(f"{retired} is retired, and published until its webhooks have been read.")
    if rotation.next is None:
        typer.echo(f"{folder} cannot be written: add a key there a day before the next rotation.")
        return
    typer.echo(f"{rotation.next} is next; receivers know it in a day.")


@app.command("keys")
def list_keys(
    keys: KeysOption = None, store: StoreOption = None, state: StateOption = None
) -> None:
    """List the published keys."""
    folder = keys_folder(keys, state)

    async def read(opened: Store) -> list[PublicKey]:
        return await SigningKeys(settings_of(folder), opened).published()

    published = run_with_store(store_url(store, state), read)
    here = read_keys(folder)
    Console().print(key_table(published, here) if published else "No keys: a service makes them.")


def wanted_state(chosen: dict[str, bool]) -> WebhookState | None:
    """The state that was chosen, if any.

    Raises:
        typer.BadParameter: there are several.
    """
    names = [name for name, is_chosen in chosen.items() if is_chosen]
    if len(names) > 1:
        raise typer.BadParameter("--pending, --delivered and --dead exclude each other.")
    return WebhookState(names[0]) if names else None


def keys_folder(keys: Path | None, state: Path | None) -> Path:
    """The folder that was named, or the local service's."""
    return keys or state_folder(state).webhooks


def settings_of(folder: Path) -> WebhookSettings:
    return WebhookSettings(keys=str(folder))


def as_tree(webhook: Webhook) -> dict[str, Any]:
    """A webhook as JSON, without its body, which may be large."""
    return {
        "id": webhook.id,
        "key_id": webhook.key_id,
        "url": webhook.url,
        "state": webhook.state,
        "attempts": webhook.attempts,
        "last_status": webhook.last_status,
        "last_error": webhook.last_error,
        "created_at": iso(webhook.created_at),
        "next_at": iso(webhook.next_at) if webhook.state is WebhookState.PENDING else None,
    }


def table(webhooks: Sequence[Webhook], now: float) -> Table:
    shown = Table("id", "url", "state", "attempts", "last", "next try")
    shown.columns[0].no_wrap = True
    shown.columns[1].overflow = "fold"
    shown.columns[3].justify = "right"
    for webhook in webhooks:
        cells = webhook.id, webhook.url, webhook.state, str(webhook.attempts)
        shown.add_row(*map(escape, (*cells, last(webhook), next_try(webhook, now))))
    return shown


def last(webhook: Webhook) -> str:
    if webhook.last_error:
        return webhook.last_error
    return str(webhook.last_status or "–")


def next_try(webhook: Webhook, now: float) -> str:
    if webhook.state is not WebhookState.PENDING:
        return "–"
    return "now" if webhook.next_at <= now else f"in {duration(webhook.next_at - now)}"


def duration(seconds: float) -> str:
    """A time in its largest unit that is not zero."""
    size, unit = next((each for each in UNITS if seconds >= each[0]), UNITS[-1])
    return f"{seconds / size:.0f} {unit}"


def key_table(keys: Sequence[PublicKey], here: Collection[str]) -> Table:
    """A row for each key; the private halves of those in `here` are at hand."""
    shown = Table("key", "state", "since", "public half", "private half")
    for key in keys:
        private = "here" if key.kid in here else "elsewhere"
        shown.add_row(escape(key.kid), key.state, minute(key.changed_at), key.x, private)
    return shown
