"""`florence usage`: what each key has used, by day and endpoint."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.cli.options import (
    JsonOption,
    StateOption,
    StoreOption,
    day_before,
    run_with_store,
    store_url,
)
from deployments.errors import SetupError
from deployments.jobs.api_key import Usage
from deployments.jobs.store import Store

COLUMNS = ("day", "key", "name", "endpoint", "requests", "images", "model_s")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def usage(
    since: Annotated[
        str | None, typer.Option(help="First day: YYYY-MM-DD, or 7d.", show_default="all")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="One key only.")] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of a table.")] = False,
    store: StoreOption = None,
    state: StateOption = None,
) -> None:
    """Show what each key has used, by day and endpoint.

    Requests, images and seconds of the model.
    """
    if as_json and as_csv:
        raise SetupError("--json and --csv exclude each other: give one of them")

    async def read(opened: Store) -> tuple[list[Usage], dict[str, str]]:
        first = day_before(await opened.now(), since) if since else ""
        names = {known.id: known.name for known in await opened.keys()}
        return await opened.usage(first, key), names

    used, names = run_with_store(store_url(store, state), read)
    rows = [named(each, names) for each in sorted(used, key=order)]
    if as_json:
        typer.echo(json.dumps({"usage": rows, "total": total(used)}, indent=2))
    elif as_csv:
        write_csv(rows)
    else:
        Console().print(table(rows, total(used)) if rows else "Nothing has been used.")


def order(used: Usage) -> tuple[str, str, str]:
    return used.day, used.key_id, used.path


def named(used: Usage, names: dict[str, str]) -> dict[str, Any]:
    """A row under the names of COLUMNS; a key of the settings has no name."""
    name = names.get(used.key_id, "")
    key = {"day": used.day, "key": used.key_id, "name": name, "endpoint": used.path}
    return key | numbers(used)


def numbers(used: Usage) -> dict[str, Any]:
    """The numbers of a row; seconds to the millisecond."""
    found = {name: value for name, value in asdict(used).items() if name in COLUMNS[4:]}
    return found | {"model_s": round(used.model_s, 3)}


def total(used: Sequence[Usage]) -> dict[str, Any]:
    return numbers(
        Usage(
            key_id="",
            day="",
            path="",
            requests=sum(each.requests for each in used),
            images=sum(each.images for each in used),
            model_s=sum(each.model_s for each in used),
        )
    )


def write_csv(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows under a header, without totals, as spreadsheets want them."""
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def table(rows: Sequence[dict[str, Any]], sums: dict[str, Any]) -> Table:
    shown = Table("day", "key", "endpoint", "requests", "images", "model s", show_footer=True)
    shown.columns[0].footer = "total"
    for column, name in zip(shown.columns[3:], COLUMNS[4:], strict=True):
        column.justify = "right"
        column.footer = readable(sums[name])
    for row in rows:
        who = f"{row['key']} {row['name']}".strip()
        cells = (readable(row[name]) for name in COLUMNS[4:])
        shown.add_row(row["day"], escape(who), row["endpoint"], *cells)
    return shown


def readable(number: float) -> str:
    """A count as it is, seconds to a tenth."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"
