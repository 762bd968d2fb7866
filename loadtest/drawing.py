"""When to draw the annotated picture: before the answer, or while it travels?

    python -m loadtest.drawing [--runs 40]

Postprocess by itself, in one process, with files in a folder: from the tokens of three boxes to
the answer, and to the stored picture; the two ways take turns, and the middle run counts.
"""

import asyncio
import statistics
import tempfile
import time
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from deployments.florence.request import Generated, Prepared, Run, Stages, Stopwatch
from deployments.postprocess import Postprocess
from deployments.settings import Settings, parse
from deployments.telemetry.metrics import PrometheusRecorder
from loadtest import figures
from loadtest.scenes import photograph

SIZES = {"512x512": (512, 512), "12 MP": (4000, 3000)}
KEYS = {"before": "", "after": "key"}  # without a key the picture comes before the answer
BINS = (40, 80, 310, 430, 330, 250, 600, 600, 620, 430, 890, 780)

Figures = dict[str, float]


def main(
    runs: Annotated[int, typer.Option(help="Runs of each size in each way.")] = 40,
) -> None:
    """Measure both ways, print them, write out/bench/drawing.json."""
    with tempfile.TemporaryDirectory() as folder:
        settings = parse({"model": {"path": "demo"}, "files": {"root": folder}})
        result = {name: asyncio.run(compared(settings, size, runs)) for name, size in SIZES.items()}
    console = Console()
    for name, ways in result.items():
        for way, row in ways.items():
            told = ", ".join(f"{what} {value:.2f}" for what, value in row.items())
            console.print(f"{name:>8} {way:>6}: {told}")
    console.print(f"Figures: {figures.write('drawing', result)}")


async def compared(settings: Settings, size: tuple[int, int], num: int) -> dict[str, Figures]:
    """Both ways for a JPEG of this (width, height)."""
    box = Postprocess(settings, PrometheusRecorder())
    prepared, generated = given(box, size)
    measured: dict[str, list[Figures]] = {way: [] for way in KEYS}
    for _ in range(num + 1):
        for way, key in KEYS.items():
            run = Run("id", "region-proposal", "", time.time() + 60, picture_key=key)
            measured[way].append(await timed(box, prepared, generated, run))
    return {way: middle(rows[1:]) for way, rows in measured.items()}  # the first warms up


def given(box: Postprocess, size: tuple[int, int]) -> tuple[Prepared, Generated]:
    """A photograph, and the tokens of three boxes on it."""
    source = np.frombuffer(photograph(0, size), np.uint8)
    words = ["<s>", *(f"<loc_{bin_}>" for bin_ in BINS), "</s>"]
    tokens = tuple(box._vocabulary.id(word) for word in words)
    pixels = np.zeros((0, 0, 3), np.uint8)
    return Prepared(pixels, source, size), Generated(tokens, Stages())


async def timed(box: Postprocess, prepared: Prepared, generated: Generated, run: Run) -> Figures:
    """Milliseconds until the answer and until the picture, and processor time of both."""
    cpu, watch = time.process_time(), Stopwatch()
    await box.run(prepared, generated, run)
    answer_s = watch.seconds()
    await box.stop()
    picture_s, cpu_s = watch.seconds(), time.process_time() - cpu
    return {
        "answer_ms": 1000 * answer_s,
        "picture_ms": 1000 * picture_s,
        "cpu_ms": 1000 * cpu_s,
    }


def middle(rows: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


if __name__ == "__main__":
    typer.run(main)
