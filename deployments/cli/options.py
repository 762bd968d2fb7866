"""What several commands share: options, and what the options name.

The store (opened for one command, always closed), the output folder, and times in UTC.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.errors import SetupError, StoreUnavailable
from deployments.jobs.access import Access
from deployments.jobs.open import MEMORY, SQLITE, latest_schema, open_store
from deployments.jobs.store import SqlStore
from deployments.local.state import StateFolder
from deployments.settings import (
    QueueSettings,
    StoreSettings,
    api_key_from_environment,
    state_home,
    store_from_environment,
)

T = TypeVar("T")
DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

StateOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for keys, certificates and files.",
        show_default="the XDG state directory",
        file_okay=False,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The service's store: postgresql://… or sqlite:///FILE.",
        show_default="FLORENCE_STORE, or the local service's",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(help="API key.", show_default="FLORENCE_API_KEY, or the local service's"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Any setting; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


def command_group(help_text: str) -> typer.Typer:
    """A command with commands of its own; without one it prints its help."""
    return typer.Typer(
        add_completion=False, rich_markup_mode=None, no_args_is_help=True, help=help_text
    )


def make_folder(folder: Path) -> None:
    """Make the folder of `--out`.

    Raises:
        SetupError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot make {folder} ({error.strerror}): choose another --out") from None


def state_folder(state: Path | None, *, make: bool = False) -> StateFolder:
    """The folder of `--state`, or the usual one; only a service makes it.

    Raises:
        SetupError: it cannot be made or written.
    """
    return StateFolder(state or state_home(), make=make)


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal. Yields a function that advances it."""
    console = Console(stderr=True)
    columns = TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    is_hidden = total < 2 or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_hidden) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def api_key(key: str | None, state: StateFolder) -> str | None:
    """The key to call with: `--key`, else FLORENCE_API_KEY, else the local service's."""
    return key or api_key_from_environment() or state.stored_key()


def store_url(store: str | None, state: Path | None) -> str:
    """The store's URL: `--store`, else FLORENCE_STORE, else the local service's file."""
    return store or store_from_environment() or state_folder(state).store


def run_with_store(
    url: str, work: Callable[[SqlStore], Awaitable[T]], access: Access = Access.READ
) -> T:
    """Open the store at `url` and return what `work` makes of it.

    Raises:
        SetupError: it cannot be opened with this access, or does not answer.
    """
    return asyncio.run(with_store(url, work, access))


async def with_store(
    url: str, work: Callable[[SqlStore], Awaitable[T]], access: Access = Access.READ
) -> T:
    """The same inside an event loop."""
    async with opened_store(url, access) as store:
        return await work(store)


@asynccontextmanager
async def opened_store(url: str, access: Access = Access.READ) -> AsyncIterator[SqlStore]:
    """The store at `url`, open inside the block. Says so when it has an older schema.

    Raises:
        SetupError: it cannot be opened with this access, or does not answer.
    """
    try:
        store = await open_store(store_settings(url), QueueSettings(), access=access)
        try:
            if store.schema < (latest := latest_schema(url)):
                typer.echo(
                    f"{without_password(url)} is an older release's: schema {store.schema}, "
                    f"this one writes {latest}. It is only read.",
                    err=True,
                )
            yield store
        finally:
            await store.close()
    except StoreUnavailable as error:
        raise SetupError(f"store {without_password(url)} does not answer: {error}") from error


def store_settings(url: str) -> StoreSettings:
    """Settings for a store that several processes can open.

    Raises:
        SetupError: `url` is not the URL of one.
    """
    if url == MEMORY:
        raise SetupError("store memory: lives in its service alone: give another with --store")
    try:
        return StoreSettings(url=url)
    except ValidationError:
        raise SetupError(
            f"{without_password(url)} is no store: write --store postgresql://… or sqlite:///FILE"
        ) from None


def without_password(url: str) -> str:
    if url.startswith(SQLITE):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "this URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def time_after(now: float, text: str) -> float:
    """The time that is `text` (`30d`) later than `now`, or the date that it names (`2030-01-31`).

    Raises:
        SetupError: it is neither, or in the past.
    """
    time = now + duration_s(text) if DURATION.fullmatch(text) else date_in(text).timestamp()
    if time <= now:
        raise SetupError(
            f"{text} is in the past: give a later date, or a time from now such as 30d"
        )
    return time


def day_before(now: float, text: str) -> str:
    """The day that is `text` (`7d`) before `now`, or the one that it names, as `YYYY-MM-DD`.

    Raises:
        SetupError: it is neither.
    """
    if DURATION.fullmatch(text):
        return f"{datetime.fromtimestamp(max(0.0, now - duration_s(text)), UTC):%Y-%m-%d}"
    return f"{date_in(text):%Y-%m-%d}"


def duration_s(text: str) -> int:
    """The seconds in `12h`."""
    return int(text[:-1]) * UNITS_S[text[-1]]


def date_in(text: str) -> datetime:
    """The date, or the date and time, in `text`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SetupError(
            f"{text} is no time: write YYYY-MM-DD, or a duration such as 12h or 30d"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def minute(time: float | None) -> str:
    """A time for a table; a dash for none."""
    return "–" if time is None else f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}"


def iso(time: float | None) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, UTC).isoformat()
