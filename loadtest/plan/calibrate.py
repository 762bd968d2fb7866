"""How fast the engine is on this machine, for `florence plan --calibrate FILE`.

    python -m loadtest.plan.calibrate [--model demo] [--device cpu] [--tokens 40] [--slots 8]

One torch thread on a CPU, in processor time, so that others on the machine do not count; a GPU by
the clock. Images of noise, answers of one length: the time of a pass of the encoder
by its images, and of a step by its rows, as the mean over whole answers, the middle of the rounds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from deployments.florence.backend import Job
from deployments.florence.backends import open_engine
from deployments.florence.engine.engine import Engine
from deployments.florence.model import Model
from deployments.florence.request import Query
from deployments.florence.tasks import TASKS
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings, ModelSettings
from loadtest import figures

SEED = 0
PREFILLS = 4
LONGEST = 256
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
TASK = "region-proposal"


def main(
    model: Annotated[str, typer.Option(help="A folder with a checkpoint, or `demo`.")] = "demo",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    tokens: Annotated[int, typer.Option(min=2, max=LONGEST, help="Tokens of each answer.")] = 40,
    slots: Annotated[int, typer.Option(min=1, help="Most answers at a time.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="The middle one counts.")] = 5,
    name: Annotated[str, typer.Option(help="Of the file in out/bench/.")] = "calibration",
) -> None:
    """Measure, print, write out/bench/NAME.json."""
    began = time.perf_counter()
    folder = DEMO_CHECKPOINT if model == "demo" else Path(model)
    bench = Bench(folder, device, tokens, slots)
    start_s = time.perf_counter() - began
    measured = {**bench.measure(rounds), "checkpoint": folder.name, "start_s": round(start_s, 1)}
    console = Console()
    console.print(table(measured))
    console.print(f"Figures: {figures.write(name, measured)}")


def middle(measure: Callable[[], float], rounds: int) -> float:
    """The middle of so many measurements, to the microsecond."""
    return round(statistics.median(measure() for _ in range(rounds)), 3)


class Bench:
    """A warm engine whose answers are all of one length."""

    def __init__(self, folder: Path, device: str, tokens: int, slots: int) -> None:
        self._tokens = tokens
        self._cuda = device == "cuda"
        dtype: Any = "float16" if self._cuda else "float32"
        model = Model(ModelSettings(path=str(folder), device=device, dtype=dtype))
        self.num_beams = model.num_beams
        prompt = model.checkpoint.prompt(TASKS[TASK].sentence)
        settings = InferenceSettings(
            max_batch_size=slots,
            prefill_batch_size=min(PREFILLS, slots),
            max_new_tokens=LONGEST,
            min_new_tokens=LONGEST,  # a query's own limit ends its answer
        )
        self.engine: Engine = open_engine(model, settings, len(prompt))
        width, height = model.checkpoint.image_size
        noise = np.random.default_rng(SEED).integers(0, 256, (height, width, 3), np.uint8)
        self.query = Query(noise, prompt, max_new_tokens=tokens)
        self.step_ms(slots)  # warm

    def measure(self, rounds: int) -> dict[str, Any]:
        """Milliseconds by the number of rows and of images, the middle of the rounds."""
        slots = self.engine.num_slots
        rows = [size for size in SIZES if size < slots] + [slots]
        images = range(1, self.engine.micro_batch + 1)
        return {
            "device": f"measured: {self.device_name}",
            "tokens": self._tokens,
            "beams": self.num_beams,
            "step_ms": {size: middle(partial(self.step_ms, size), rounds) for size in rows},
            "prefill_ms": {size: middle(partial(self.prefill_ms, size), rounds) for size in images},
        }

    @property
    def device_name(self) -> str:
        """The card, or the processor."""
        return torch.cuda.get_device_name() if self._cuda else figures.machine()

    def prefill_ms(self, images: int) -> float:
        """A pass of the encoder."""
        jobs = self._jobs(images)
        began = self._now()
        self.engine.admit(jobs)
        taken = self._now() - began
        self.engine.reset()
        return 1000 * taken

    def step_ms(self, rows: int) -> float:
        """A step, as the mean over whole answers that go side by side."""
        jobs = self._jobs(rows)
        for first in range(0, rows, self.engine.micro_batch):
            self.engine.admit(jobs[first : first + self.engine.micro_batch])
        began, left = self._now(), rows
        while left:
            left -= len(self.engine.step())
        return 1000 * (self._now() - began) / self._tokens

    def _jobs(self, number: int) -> Sequence[Job[Query]]:
        return [Job(self.query) for _ in range(number)]

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def table(measured: dict[str, Any]) -> Table:
    """The figures for a person."""
    shown = Table("", "number", "ms", title=f"{measured['checkpoint']}, {measured['device']}")
    for name, key in (("step by rows", "step_ms"), ("encoder by images", "prefill_ms")):
        for number, milliseconds in measured[key].items():
            shown.add_row(name, str(number), f"{milliseconds:.2f}")
    return shown


if __name__ == "__main__":
    typer.run(main)
