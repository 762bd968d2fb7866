"""`florence convert`: weights in other layouts, and adapters, become checkpoints to serve."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.options import progress
from deployments.errors import SetupError
from deployments.florence.checkpoint import download, is_hub_id
from deployments.settings import ModelSettings

if TYPE_CHECKING:
    from deployments.florence.convert.checkpoint import Conversion

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Dtype(StrEnum):
    """What weights are stored in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A checkpoint: a folder, or a hub id.")
    ],
    target: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="The folder to make.", show_default=False)
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="A LoRA or DoRA adapter of PEFT, to merge.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="What to store weights in.")] = Dtype.FLOAT16,
    revision: Annotated[str, typer.Option(help="Commit or branch of a hub id.")] = "main",
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the adapter fits; no DEST.")
    ] = False,
) -> None:
    """Make weights in other layouts, and adapters, into checkpoints.

    SOURCE has Microsoft's layout, or is another checkpoint that an adapter is merged into.
    No code of the checkpoint is run, and a local folder needs no network.
    """
    if check != (target is None):
        raise typer.BadParameter("give DEST, or --check without one")
    if check and adapter is None:
        raise typer.BadParameter("--check needs --adapter")
    if adapter is not None and not adapter.is_dir():
        raise SetupError(f"no folder of an adapter at {adapter}")
    folder = source_folder(source, revision)
    if target is None:
        assert adapter is not None
        return typer.echo(fit(folder, adapter))
    from deployments.florence.convert.checkpoint import STEPS
    from deployments.florence.convert.checkpoint import convert as write

    with progress("Converting", STEPS) as advance:
        done = write(folder, target, adapter, dtype.value, advance)
    return typer.echo(report(done, target))


def source_folder(source: str, revision: str) -> Path:
    """The folder, or a download of the hub id.

    Raises:
        SetupError: there is no such folder, or it could not be fetched.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if not is_hub_id(source):
        raise SetupError(f"no checkpoint folder at {source}: give a folder or a hub id")
    settings = ModelSettings(path=source, revision=revision)
    fetched = download(settings, ("*.json", "*.txt", "*.safetensors"))
    return fetched if any(fetched.glob("*.safetensors")) else download(settings, ("*.bin",))


def fit(folder: Path, adapter: Path) -> str:
    """That an adapter fits, and how large it is.

    Raises:
        SetupError: it does not.
    """
    from deployments.florence.convert.checkpoint import read_source
    from deployments.florence.convert.merge import open_adapter

    _, state, _ = read_source(folder)
    found = open_adapter(adapter, state)
    kind = "DoRA" if found.is_dora else "LoRA"
    ranks = sorted({layer.rank for layer in found.layers.values()})
    return f"{adapter} fits: {kind}, {len(found.layers)} layers, rank {', '.join(map(str, ranks))}."


def report(done: "Conversion", target: Path) -> str:
    """What was done, and what to do next."""
    before, after = done.rows
    lines = [
        f"{target}: {done.tensors} tensors, {done.dtype}, {done.num_bytes / 1e6:,.1f} MB.",
        f"  renamed        {done.renamed} tensors",
        f"  vocabulary     {before:,} rows" + (f", now {after:,}" if after != before else ""),
        f"  tokens added   {done.tokens_added:,}",
        *([f"  merged         {done.layers_merged} layers"] if done.layers_merged else []),
        *(["  head           one of its own"] if done.has_own_head else []),
        "",
        f"Serve it with: {shlex.join(['florence', 'serve', '--model', str(target)])}",
    ]
    return "\n".join(lines)
