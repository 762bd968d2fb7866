"""The options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path | None,
    typer.Option(
        help="Folder for keys, certificates and files.  [default: XDG state directory]",
        show_default=False,
        file_okay=False,
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The service's store: postgresql://… or sqlite:///FILE.",
        show_default="FLORENCE_STORE, or the local service's",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
