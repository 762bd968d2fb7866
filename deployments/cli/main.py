"""The command `florence`. The module of a command is imported only when it is called."""

import sys
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from deployments import __version__
from deployments.errors import SetupError
from deployments.local.signals import raise_interrupts

COMMANDS = {
    "serve": "Serve on this machine until Ctrl-C.",
    "predict": "Ask a running service about images.",
    "demo": "Find, read and outline things in random scenes.",
    "convert": "Make weights in other layouts, and adapters, into checkpoints.",
    "top": "Show what a running service does now.",
    "doctor": "Check a setup: this machine, a service at a URL, or a cluster.",
    "keys": "Create, list, rotate and revoke API keys.",
    "usage": "Show what each key has used, by day and endpoint.",
    "webhooks": "List and retry webhooks, and rotate the keys that sign them.",
    "store": "Check a store, migrate its schema, or copy it to another.",
}
MODULES = {"doctor": "doctor.command"}  # where it is not the name of the command


def load(name: str) -> Any:
    """The command called `name`, out of the Typer `app` of its module."""
    module = import_module(f"deployments.cli.{MODULES.get(name, name)}")
    return typer.main.get_command(module.app)


class LazyGroup(TyperGroup):
    """Its commands are names and summaries for the help; the one that is called is loaded."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else None, rest


app = LazyGroup(
    name="florence",
    commands={name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()},
    no_args_is_help=True,
    rich_markup_mode=None,  # Rich takes as long to import as all the rest
    help="Florence-2 behind fal's HTTP protocol, on your own machines. --version shows which.",
)


def main() -> None:
    """Run a command. A wrong option or setup is one line on standard error and exit code 2."""
    raise_interrupts()
    if sys.argv[1:2] == ["--version"]:
        typer.echo(f"florence {__version__}")
        sys.exit(0)
    try:
        sys.exit(app.main(prog_name="florence", standalone_mode=False))
    except TyperException as error:
        text = getattr(error, "format_message", error.__str__)()
        refuse(f"{text} See `florence --help`.") if text else sys.exit(2)  # the help is shown
    except SetupError as error:
        refuse(str(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)


def refuse(line: str) -> NoReturn:
    """Print `line` in red, and exit with 2."""
    text = " ".join(line.split())
    typer.secho(f"florence: {text}", err=True, fg=typer.colors.RED)
    sys.exit(2)
