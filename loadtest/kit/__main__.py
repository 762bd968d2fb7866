"""`make loadtest`: the command `python -m loadtest.kit SCENARIO`.

    python -m loadtest.kit steady --rate 10 --duration 60s
    python -m loadtest.kit burst --url https://florence.example.com --key KEY --max-p95 20s

Exit codes: 0 every threshold was kept, 1 one was missed, 2 no load was made (a line says why).
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from deployments.errors import SetupError
from deployments.local.signals import raise_interrupts
from loadtest.kit.amounts import bound, bound_s, seconds, shown_s
from loadtest.kit.arrivals import Pattern
from loadtest.kit.crew import NotDriven
from loadtest.kit.order import Order
from loadtest.kit.plan import KEY
from loadtest.kit.scenarios import SCENARIOS, Bounds, Scenario
from loadtest.kit.session import run

FOLDER = Path("out/loadtest")
OWN = "the scenario's"  # default


def option(convert: Callable[[str], float]) -> Callable[[str], float]:
    """A conversion whose complaint the command line shows."""

    def converted(text: str) -> float:
        try:
            return convert(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return converted


def rate_of(text: str) -> float:
    """A number above 0.

    Raises:
        ValueError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is no rate: write a number above 0, such as 12.5")
    return value


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def told() -> str:
    """The help of the command, with the table of scenarios."""
    rows = "\n".join(
        f"{each.name:9} {each.summary} ({each.pattern}, {each.rate:g}/s, "
        f"{shown_s(each.duration_s)})"
        for each in SCENARIOS.values()
    )
    return f"Load a service, and judge it.\n\nScenarios:\n\n\b\n{rows}"


@app.command(help=told())
def loadtest(
    scenario: Annotated[str, typer.Argument(help="Which of the scenarios above.")] = "smoke",
    url: Annotated[
        str | None, typer.Option(help="The service to load.", show_default="one of the kit's own")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Its API key.", envvar=KEY)] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            parser=option(rate_of), metavar="N", help="Arrivals a second.", show_default=OWN
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(parser=option(seconds), metavar="TIME", help="Such as 90s or 1h."),
    ] = None,
    arrivals: Annotated[
        Pattern | None, typer.Option(help="How arrivals are spread.", show_default=OWN)
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images.", show_default="drawn scenes")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals and their order.")] = 0,
    timeout: Annotated[
        float, typer.Option(parser=option(seconds), metavar="TIME", help="For one arrival.")
    ] = "120s",  # type: ignore[assignment]  # the parser reads it
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report.", show_default=f"in {FOLDER}")
    ] = None,
    max_p50: Annotated[
        float | None, typer.Option(parser=option(bound_s), metavar="TIME", help="Or none.")
    ] = None,
    max_p95: Annotated[
        float | None, typer.Option(parser=option(bound_s), metavar="TIME", help="Or none.")
    ] = None,
    max_p99: Annotated[
        float | None, typer.Option(parser=option(bound_s), metavar="TIME", help="Or none.")
    ] = None,
    max_error_rate: Annotated[
        float | None,
        typer.Option(parser=option(bound), metavar="SHARE", help="Failed, of all arrivals."),
    ] = None,
    max_refused_rate: Annotated[
        float | None,
        typer.Option(parser=option(bound), metavar="SHARE", help="429, of all arrivals."),
    ] = None,
    max_drift: Annotated[
        float | None,
        typer.Option(
            parser=option(bound), metavar="RATIO", help="Median of the last tenth over the first."
        ),
    ] = None,
    max_lag: Annotated[
        float | None,
        typer.Option(
            parser=option(bound_s), metavar="TIME", help="The generator's own lateness, p99."
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Generators on this machine.")] = 1,
    expect: Annotated[
        int | None, typer.Option(min=1, help="Be the master of so many workers elsewhere.")
    ] = None,
    join: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="Be a worker of that master.")
    ] = None,
    bind: Annotated[str, typer.Option(help="Where a master listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="A master's port.")] = 5557,
    receiver: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the service reaches our webhook receiver."),
    ] = None,
    haproxy: Annotated[
        bool, typer.Option("--haproxy", help="HAProxy before the kit's own service.")
    ] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A setting of the kit's own service."),
    ] = None,
) -> None:
    """The help comes from the table of scenarios."""
    row = scenario_of(scenario)
    order = Order(
        scenario=row,
        url=url,
        key=key,
        pattern=arrivals or row.pattern,
        rate=rate or row.rate,
        duration_s=duration or row.duration_s,
        images=images,
        seed=seed,
        timeout_s=timeout,
        bounds=laid_over(
            row.bounds,
            p50_s=max_p50,
            p95_s=max_p95,
            p99_s=max_p99,
            error_rate=max_error_rate,
            refused_rate=max_refused_rate,
            drift=max_drift,
            lag_s=max_lag,
        ),
        out=out or FOLDER / f"{row.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        processes=processes,
        expect=expect,
        join=join,
        bind=bind,
        port=port,
        receiver=receiver,
        haproxy=haproxy,
        sets=tuple(sets or ()),
    )
    is_kept = run(order, Console())
    raise typer.Exit(0 if is_kept else 1)


def scenario_of(name: str) -> Scenario:
    """A row of the table.

    Raises:
        BadParameter: there is none of that name.
    """
    if name not in SCENARIOS:
        raise typer.BadParameter(
            f"there is no scenario {name!r}: take one of {', '.join(SCENARIOS)}."
        )
    return SCENARIOS[name]


def laid_over(bounds: Bounds, **given: float | None) -> Bounds:
    """The scenario's bounds, with those that were given in their place."""
    return replace(bounds, **{name: each for name, each in given.items() if each is not None})


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: a wrong argument or setup is one line and exit code 2."""
    raise_interrupts()
    try:
        sys.exit(app(arguments, standalone_mode=False))
    except TyperException as error:
        refuse(f"{error.format_message()} See `python -m loadtest.kit --help`.")
    except SetupError as error:
        refuse(str(error))
    except NotDriven:
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)


def refuse(line: str) -> NoReturn:
    """Say in one line what to change."""
    text = " ".join(line.split())
    Console(stderr=True).print(f"loadtest: {text}", style="red", markup=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
