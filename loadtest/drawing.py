"""When to draw the annotated picture: at once, or at its first download?

    python -m loadtest.drawing [--pictures 300]

Processor and wall time of both ways, for 512×512 JPEGs with three boxes, in one process.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from deployments.florence.schemas import BoundingBox, BoundingBoxes
from deployments.images.decode import decode
from deployments.images.draw import annotate, encode
from deployments.images.local import LocalFileStore
from deployments.settings import FileSettings, PreprocessSettings
from loadtest import figures
from loadtest.scenes import photograph

BOXES = BoundingBoxes(
    bboxes=[
        BoundingBox(x=20 + 150 * i, y=40 + 90 * i, w=140, h=180, label=f"object {i}")
        for i in range(3)
    ]
)


def main(
    pictures: Annotated[int, typer.Option(help="Pictures drawn in each way.")] = 300,
) -> None:
    """Measure both ways, print them, write out/bench/drawing.json."""
    source = photograph(0)
    folder = Path(tempfile.mkdtemp())
    store = LocalFileStore(FileSettings(root=str(folder)))

    def at_once() -> None:
        picture = annotate(decode(source, PreprocessSettings()), BOXES.bboxes)
        store.put(encode(picture, 90), "image/jpeg")

    def later() -> None:
        store.put(source + BOXES.model_dump_json().encode(), "application/octet-stream")

    result = {"at_once": measured(at_once, pictures), "kept_for_later": measured(later, pictures)}
    shutil.rmtree(folder)
    console = Console()
    for way, row in result.items():
        console.print(f"{way:>15}: {row['cpu_ms']:.2f} ms CPU, {row['wall_ms']:.2f} ms in all")
    console.print(f"Figures: {figures.write('drawing', result)}")


def measured(work: Callable[[], None], num: int) -> dict[str, Any]:
    """Milliseconds of one call, after a few that warm up."""
    for _ in range(10):
        work()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(num):
        work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_ms": 1000 * cpu / num, "wall_ms": 1000 * wall / num}


if __name__ == "__main__":
    typer.run(main)
