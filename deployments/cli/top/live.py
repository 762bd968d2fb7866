"""`florence top`: draws again and again, or once, or tells numbers to a script."""

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.live import Live

from deployments.cli.options import StateOption
from deployments.cli.top.exposition import Scrape
from deployments.cli.top.overview import Overview, overview
from deployments.cli.top.screen import Screen
from deployments.cli.top.sources import REMEDY, Exporters, sources
from deployments.cli.top.window import Window
from deployments.errors import SetupError
from deployments.local.state import StateFolder
from deployments.settings import state_home

ONCE_S = 10.0  # Ray's nodes on a cluster tell something new every ten seconds
FIRST_S = 1.0


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def top(
    urls: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Where metrics are, http://HOST:PORT/metrics; may be repeated.",
            show_default="the service on this machine",
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.2, metavar="SECONDS", help="Time between two frames.")
    ] = 2.0,
    window: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="Time that rates are over.")
    ] = 30.0,
    once: Annotated[
        bool,
        typer.Option("--once", help="One frame over 10 s; as without a terminal."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The numbers of one frame.")] = False,
    state: StateOption = None,
) -> None:
    """Show what a running service does now.

    Traffic, queue, model, stages, CPU, store, webhooks and keys.
    """
    show(urls or [], every, window, once, as_json, state or state_home())


def show(
    urls: list[str], every_s: float, window_s: float, once: bool, as_json: bool, state: Path
) -> None:
    """Show the service until Ctrl-C, or once.

    Raises:
        SetupError: there is nothing to show; one line with the remedy.
    """
    found = sources(urls, state)
    with closing(Exporters(found, StateFolder(state).tls / "ca.pem")) as exporters:
        if once or as_json or not sys.stdout.isatty():
            print_once(exporters, min(window_s, ONCE_S), title(found), as_json)
        else:
            with suppress(KeyboardInterrupt):
                redraw(exporters, every_s, window_s, title(found))


def title(urls: list[str]) -> str:
    """What is looked at, in few characters."""
    more = f" and {len(urls) - 1} more" if len(urls) > 1 else ""
    return f"{urlsplit(urls[0]).netloc}{more}"


def print_once(exporters: Exporters, apart_s: float, name: str, as_json: bool) -> None:
    """One frame, of two looks that are so far apart."""
    before = exporters.fetch()
    time.sleep(apart_s)
    found = overview(Window(before, exporters.fetch()))
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        Console().print(Screen(found, name))


def redraw(exporters: Exporters, every_s: float, window_s: float, name: str) -> None:
    """A frame every so often, of what happened within the window."""
    frames = overviews(exporters, every_s, window_s)
    shown, trouble = next(frames)
    with Live(Screen(shown, name, trouble), screen=True, auto_refresh=False) as live:
        for shown, trouble in frames:
            live.update(Screen(shown, name, trouble), refresh=True)


def overviews(
    exporters: Exporters, every_s: float, window_s: float
) -> Iterator[tuple[Overview, str]]:
    """What is to be seen, and what is wrong: a service may be away for a while.

    Raises:
        SetupError: it was not there from the first.
    """
    seen: deque[Scrape] = deque([exporters.fetch()])
    time.sleep(min(FIRST_S, every_s))
    trouble = ""
    while True:
        try:
            remember(seen, exporters.fetch(), window_s)
            trouble = ""
        except SetupError as error:
            trouble = str(error).partition(f": {REMEDY}")[0]
        yield overview(Window(seen[0], seen[-1])), trouble
        time.sleep(every_s)


def remember(seen: "deque[Scrape]", latest: Scrape, window_s: float) -> None:
    """Keep the latest, and as many before it as the window holds, but one at least."""
    seen.append(latest)
    while len(seen) > 2 and latest.at - seen[1].at >= window_s:
        seen.popleft()
