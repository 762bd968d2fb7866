"""`make drills`: break every part of the service under load and count what clients lose.

    python -m tests.chaos [NAME …] [--seconds 20] [--proxy] [--out FILE]

The service is started here, as in production but small: HAProxy, two Ray nodes, two replicas of
each deployment, PostgreSQL, an object store. The exit code is 1 when a request failed or was lost.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos import sigterm
from tests.chaos.drill import Drill, DrillResult, perform, table, verdict, write
from tests.chaos.faults import (
    ControllerKilled,
    DatabaseAway,
    DatabaseConnectionsCut,
    DatabaseProcessesKilled,
    DatabaseRestarted,
    DispatcherKilled,
    FilesAway,
    FilesFrozen,
    HeadRestarted,
    InferenceKilled,
    IngressKilled,
    PostprocessKilled,
    PreprocessKilled,
)
from tests.chaos.installation import installation
from tests.chaos.releases import (
    BrokenWeights,
    MissingModel,
    NewSettings,
    NewWeights,
    ReplicasStopped,
    UnknownSetting,
)

DRILLS: dict[str, type[Drill]] = {
    "ingress": IngressKilled,
    "preprocess": PreprocessKilled,
    "inference": InferenceKilled,
    "postprocess": PostprocessKilled,
    "dispatcher": DispatcherKilled,
    "controller": ControllerKilled,
    "head": HeadRestarted,
    "database-restart": DatabaseRestarted,
    "database-away": DatabaseAway,
    "database-connections": DatabaseConnectionsCut,
    "database-processes": DatabaseProcessesKilled,
    "files-away": FilesAway,
    "files-silent": FilesFrozen,
    "bad-setting": UnknownSetting,
    "bad-model": MissingModel,
    "bad-weights": BrokenWeights,
    "settings": NewSettings,
    "weights": NewWeights,
    "stop": ReplicasStopped,
}
SIGTERM = "sigterm"  # of a service of its own
OUT = Path("out/drills.md")


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Which ones; all by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Least length of each.")] = 20.0,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="Serve's own proxy in front, not HAProxy.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the table goes, as Markdown.")] = OUT,
) -> None:
    """Run the drills; print and write the table."""
    chosen = names or [*DRILLS, SIGTERM]
    unknown = set(chosen) - {*DRILLS, SIGTERM}
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose from {', '.join(DRILLS)}")
    console = Console()
    results: list[DrillResult] = []
    for result in performed(chosen, seconds, not proxy, console):
        results.append(result)
        write(results, out)
        console.print(f"{result.drill}: {verdict(result)}")
    console.print(table(results))
    console.print(f"Table: {out}")
    if not all(result.is_passed for result in results):
        raise typer.Exit(1)


def performed(
    names: list[str], seconds: float, haproxy: bool, console: Console
) -> Iterator[DrillResult]:
    """The result of each drill; drills of an installation share one."""
    of_site = [name for name in names if name != SIGTERM]
    with console.status("Starting the service …") as status, ExitStack() as stack:
        whole = stack.enter_context(installation(haproxy)) if of_site else None
        for name in of_site:
            assert whole
            drill = DRILLS[name]()
            status.update(f"{drill.what} …")
            yield perform(drill, whole, seconds=seconds)
        stack.close()
        if SIGTERM in names:
            status.update(f"{sigterm.WHAT} …")
            yield sigterm.perform(haproxy)


if __name__ == "__main__":
    typer.run(main)
