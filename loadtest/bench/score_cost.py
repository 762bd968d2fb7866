"""What scores cost: `python -m loadtest.bench.score_cost`, with nothing else on the machine.

    python -m loadtest.bench.score_cost [--shape base] [--beams 1] [--batch-size 8] [--tokens 40]
                                        [--rounds 5]

Two engines over one model with random weights, in float32 on one torch thread, answer the same
questions about one picture of noise. One of them scores every token. They take turns step by step,
so that both meet the same machine. Each step counts with the least processor time of all rounds.
The encoder's pass comes before the first step; the answer is shown with it and without.
All questions share the tower's pass, so it is a smaller part of an answer than it mostly is.
The base shape has a vocabulary of 51,328 and a width of 768, the small one 1472 and 128.
Both must give the same tokens.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import torch
import typer
from rich.console import Console

from loadtest.bench import figures
from loadtest.bench.questions import Shape
from loadtest.gpu.model import BASE, SMALL, imposed, random_model

MOST = 1.02  # times an answer without scores
ROWS = {
    "without scores, CPU ms": ("plain_ms", 2),
    "with scores, CPU ms": ("scored_ms", 2),
    "ratio": ("ratio", 4),
    "wanted, at most": ("wanted", 2),
}


@dataclass(frozen=True)
class ScoreBench:
    shape: Shape
    beams: int
    batch_size: int
    tokens: int
    rounds: int


# Seconds of each step, without scores and with them; the encoder's pass is the first.
Turns = list[tuple[float, float]]


def main(
    shape: Annotated[Shape, typer.Option(help="How large the model is.")] = Shape.BASE,
    beams: Annotated[int, typer.Option(min=1, help="Beams of every answer.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers under way.")] = 8,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of every answer.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each step.")] = 5,
) -> None:
    """Measure, print the table, write out/bench/score-cost.json."""
    torch.set_num_threads(1)
    asked = ScoreBench(shape, beams, batch_size, tokens, rounds)
    pair = Pair(asked)
    columns = summary([pair.round(number) for number in range(rounds)], batch_size)
    console = Console()
    console.print(figures.table(f"{batch_size} answers of {tokens} tokens", columns, ROWS))
    result = {"asked": asdict(asked), "per_answer": columns}
    console.print(f"Figures: {figures.write('score-cost', result)}")


def summary(rounds: list[Turns], batch_size: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one answer, by the least time of each step."""
    least = [tuple(map(min, zip(*step, strict=True))) for step in zip(*rounds, strict=True)]

    def column(steps: list[tuple[float, ...]]) -> dict[str, float]:
        plain, scored = (1000 * sum(times) / batch_size for times in zip(*steps, strict=True))
        return {"plain_ms": plain, "scored_ms": scored, "ratio": scored / plain, "wanted": MOST}

    return {"an answer": column(least), "without the encoder": column(least[1:])}


class Pair:
    """Two engines over the same weights, and the questions for both."""

    def __init__(self, asked: ScoreBench) -> None:
        shape = BASE if asked.shape is Shape.BASE else SMALL
        model = random_model(shape, torch.device("cpu"), torch.float32)
        self._num_steps = asked.tokens
        config = imposed(asked.beams, asked.tokens, asked.batch_size, asked.batch_size)
        self._engines = model.engine(config), model.engine(config)
        first, *others = model.sequences([asked.tokens] * asked.batch_size)
        self._questions = [
            replace(each, pixels=first.pixels, image_key="picture") for each in (first, *others)
        ]

    def round(self, number: int) -> Turns:
        """Both answer all questions; in every other step the one that scores comes first.

        Raises:
            SystemExit: they do not say the same.
        """
        batches = [[replace(q, scored=scored) for q in self._questions] for scored in (False, True)]
        turns = [self._turn(number, lambda which: self._engines[which].add(batches[which]))]
        for step in range(self._num_steps):
            turns.append(self._turn(number + step, lambda which: self._engines[which].step()))
        plain, scored = ([each.tokens for each in batch] for batch in batches)
        if plain != scored or not all(plain):
            raise SystemExit("the answers differ, so the ways did not do the same work")
        return turns

    def _turn(self, number: int, do: Callable[[int], object]) -> tuple[float, float]:
        """Processor seconds of what both engines do."""
        seconds = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            before = time.process_time()
            do(which)
            seconds[which] = time.process_time() - before
        return seconds[0], seconds[1]


if __name__ == "__main__":
    typer.run(main)
