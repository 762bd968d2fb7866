"""What adapters cost: `python -m loadtest.bench.adapter_cost`, with nothing else on the machine.

    python -m loadtest.bench.adapter_cost [--shape base] [--adapters 4] [--rank 16]
                                          [--batch-size 4] [--beams 3] [--steps 8] [--rounds 3]

An engine over a model with random weights, in float32 on one torch thread, answers the same
questions about a picture of noise: once by the base alone, which passes by the adapters, and once
by an adapter each, in turns. The adapters change q, k, v, the output, fc1 and fc2 of every layer of
the text encoder and the decoder. The ways take turns, so that both meet the same machine, and each
step counts with the least processor time of all rounds. The encoder's passes, each of a picture and
two questions, are counted apart: with a picture for each question, adapters cost a smaller part.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from deployments.florence.engine.build import build
from deployments.florence.engine.low_rank import attach
from deployments.florence.sequence import Sequence
from loadtest.bench import figures
from loadtest.bench.questions import Shape
from loadtest.gpu.model import BASE, SMALL, imposed, random_model

CHANGED = re.compile(r"language_model.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)")
TOGETHER = 2  # questions of one pass of the encoder
SIZE = 0.01  # of the factors' elements
ROWS = {
    "base alone, CPU ms": ("plain_ms", 1),
    "with adapters, CPU ms": ("adapted_ms", 1),
    "ratio": ("ratio", 3),
    "wanted, at most": ("wanted", 2),
}


@dataclass(frozen=True)
class AdapterBench:
    shape: Shape
    adapters: int
    rank: int
    batch_size: int
    beams: int
    steps: int
    rounds: int


@dataclass(frozen=True)
class NoiseFactors:
    """Of one module: down (rank, in), up (out, rank)."""

    down: NDArray[np.float32]
    up: NDArray[np.float32]
    scale: float = 1.0


# Seconds without adapters and with them.
Times = tuple[float, float]


def main(
    shape: Annotated[Shape, typer.Option(help="How large the model is.")] = Shape.BASE,
    adapters: Annotated[int, typer.Option(min=1, help="Adapters in the mix.")] = 4,
    rank: Annotated[int, typer.Option(min=1, help="Rank of each.")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions together.")] = 4,
    beams: Annotated[int, typer.Option(min=1, help="Beams of every answer.")] = 3,
    steps: Annotated[int, typer.Option(min=2, help="Tokens of every answer.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each step.")] = 3,
) -> None:
    """Measure, print as it goes and at the end the table, write out/bench/adapter-cost.json."""
    torch.set_num_threads(1)
    asked = AdapterBench(shape, adapters, rank, batch_size, beams, steps, rounds)
    console = Console()
    console.print("Making the model …")
    ways = Ways(asked)
    console.print("It is warm.")
    measured = []
    for number in range(rounds):
        measured.append(ways.round(number))
        encoder, *decoder = measured[-1]
        console.print(f"round {number + 1}: encoder {said([encoder])}, a step {said(decoder)}")
    columns = summary(measured)
    title = f"{batch_size} questions, {adapters} adapters of rank {rank}, {beams} beams"
    console.print(figures.table(title, columns, ROWS))
    result = {"asked": asdict(asked), "passes": columns}
    console.print(f"Figures: {figures.write('adapter-cost', result)}")


def said(times: list[Times]) -> str:
    """The mean of passes without and with adapters."""
    plain, adapted = (1000 * sum(each) / len(times) for each in zip(*times, strict=True))
    return f"{plain:.0f} and {adapted:.0f} ms"


def summary(rounds: list[list[Times]]) -> dict[str, dict[str, float]]:
    """Milliseconds of one pass, by the least time of each in all rounds."""
    least = [tuple(map(min, zip(*each, strict=True))) for each in zip(*rounds, strict=True)]

    def column(passes: list[tuple[float, ...]], wanted: float) -> dict[str, float]:
        plain, adapted = (1000 * sum(each) / len(passes) for each in zip(*passes, strict=True))
        return {
            "plain_ms": plain,
            "adapted_ms": adapted,
            "ratio": adapted / plain,
            "wanted": wanted,
        }

    return {"a decoding step": column(least[1:], 1.15), "the encoder": column(least[:1], 1.10)}


class Ways:
    """An engine with adapters, and the questions to the base alone and to the mix."""

    def __init__(self, asked: AdapterBench) -> None:
        shape = BASE if asked.shape is Shape.BASE else SMALL
        model = random_model(shape, torch.device("cpu"), torch.float32)
        names = [f"adapter-{number}" for number in range(asked.adapters)]
        factors = {n: noise(model.florence, asked.rank, seed) for seed, n in enumerate(names)}
        adapters = attach(model.florence, factors)
        config = imposed(asked.beams, asked.steps, asked.batch_size, TOGETHER)
        self._engine = build(
            model.florence, model.inputs, model.rules, config, model.image, adapters=adapters
        )
        self._num_steps = asked.steps
        first, *others = model.sequences([asked.steps] * asked.batch_size)
        plain = [replace(each, pixels=first.pixels, image_key="noise") for each in (first, *others)]
        mixed = [replace(each, adapter=names[n % len(names)]) for n, each in enumerate(plain)]
        self._questions = plain, mixed

    def round(self, number: int) -> list[Times]:
        """Both ways, the mix first in every other round: the encoder's passes, then each step."""
        seconds: list[list[float]] = [[], []]
        for which in (0, 1) if number % 2 else (1, 0):
            seconds[which] = self._answer([replace(each) for each in self._questions[which]])
        return list(zip(*seconds, strict=True))

    def _answer(self, questions: list[Sequence]) -> list[float]:
        """Processor seconds of all passes of the encoder together, and of each step.

        Raises:
            SystemExit: not every question was answered.
        """
        before = time.process_time()
        for first in range(0, len(questions), TOGETHER):
            self._engine.add(questions[first : first + TOGETHER])
        seconds = [time.process_time() - before]
        for _ in range(self._num_steps):
            before = time.process_time()
            self._engine.step()
            seconds.append(time.process_time() - before)
        if not all(each.tokens for each in questions):
            raise SystemExit("not every question was answered: the figures say nothing")
        return seconds


def noise(florence: Any, rank: int, seed: int) -> Mapping[str, NoiseFactors]:
    """Factors for every projection that an adapter changes."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return SIZE * generator.standard_normal(shape, dtype=np.float32)

    return {
        name: NoiseFactors(normal(rank, module.in_features), normal(module.out_features, rank))
        for name, module in florence.named_modules()
        if isinstance(module, nn.Linear) and CHANGED.search(name)
    }


if __name__ == "__main__":
    typer.run(main)
