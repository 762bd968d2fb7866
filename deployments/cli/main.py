"""The command `florence`: serve on this machine, ask a service, show a demonstration."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from deployments.cli import keys as key_commands
from deployments.cli import store as store_commands
from deployments.cli import webhooks as webhook_commands
from deployments.cli.doctor.command import doctor
from deployments.cli.options import State
from deployments.cli.usage import usage
from deployments.errors import SetupError
from deployments.local.signals import raise_interrupts
from deployments.settings import state_home

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Florence-2 behind fal's HTTP protocol, on your own machines.",
)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint: a folder, a hub id, or `demo`.", show_default="demo"),
    ] = None,
    state: State = None,
    tls: Annotated[bool, typer.Option("--tls", help="Serve https with a private CA.")] = False,
    haproxy: Annotated[
        bool, typer.Option("--haproxy", help="HAProxy in front, as on a cluster; http only.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Where the model runs: cpu or cuda.", show_default="cpu")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="The queue: postgresql://… or sqlite:///FILE.",
            show_default="SQLite in the state folder",
        ),
    ] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Keep the queue in memory alone.")
    ] = False,
    files: Annotated[
        str | None,
        typer.Option(
            help="Uploads and pictures: a folder, s3://, gs:// or az://.",
            show_default="in the state folder",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any setting; may be repeated."),
    ] = None,
) -> None:
    """Serve until Ctrl-C; prints the address, the key and how to call when it is ready."""
    from deployments.cli.serve import serve_forever

    if ephemeral and store:
        raise typer.BadParameter("--ephemeral and --store exclude each other.")
    url = "memory:" if ephemeral else store
    folder = state or state_home()
    serve_forever(host, port, model, folder, tls, haproxy, device, url, files, sets or [])


@app.command()
def predict(
    images: Annotated[
        list[str], typer.Argument(help="Files, folders or URLs.", metavar="IMAGE...")
    ],
    url: Annotated[str, typer.Option(help="Base URL of the service.")] = "http://127.0.0.1:8000",
    key: Annotated[
        str | None,
        typer.Option(help="API key.", show_default="FLORENCE_API_KEY, or the local service's"),
    ] = None,
    task: Annotated[str, typer.Option(help="What to do with each image.")] = "region-proposal",
    out: Annotated[
        Path | None, typer.Option(help="Folder for annotated pictures.", file_okay=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each image.")] = False,
    state: State = None,
) -> None:
    """Ask a running service about images."""
    from deployments.cli.predict import predict_all

    raise typer.Exit(predict_all(images, url, key, task, out, json, state or state_home()))


@app.command()
def demo(
    seed: Annotated[
        int | None, typer.Option(help="Seed of the scenes.", show_default="random")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for scenes, pictures and answers.")] = Path(
        "out/demo"
    ),
) -> None:
    """Find the shapes in three random scenes with a service of its own, and show how well."""
    from deployments.cli.demo import show

    raise typer.Exit(show(seed, out))


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
    state: State = None,
) -> None:
    """Show what the service does now: traffic, queue, model, stages, CPU, store, webhooks, keys."""
    from deployments.cli.top.live import show

    show(urls or [], every, window, once, as_json, state or state_home())


app.command()(doctor)
app.add_typer(key_commands.app, name="keys")
app.command()(usage)
app.add_typer(store_commands.app, name="store")
app.add_typer(webhook_commands.app, name="webhooks")


def main() -> None:
    """The entry point: a wrong flag or setup is one line and exit code 2."""
    raise_interrupts()
    try:
        sys.exit(app(standalone_mode=False))
    except TyperException as error:
        said = getattr(error, "format_message", error.__str__)()
        refuse(f"{said} See `florence --help`.") if said else sys.exit(2)  # the help is shown
    except SetupError as error:
        refuse(str(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)


def refuse(line: str) -> NoReturn:
    """Say in one line what to change."""
    text = " ".join(line.split())
    Console(stderr=True).print(f"florence: {text}", style="red", markup=False, soft_wrap=True)
    sys.exit(2)
