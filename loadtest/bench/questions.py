"""What many questions about one picture cost, against one: `python -m loadtest.bench.questions`.

    python -m loadtest.bench.questions [--tokens 20] [--beams 1] [--rounds 3] [--pairs 8]
                                       [--shape base] [--max-batch-size 32]
                                       [--prefill-batch-size 4]

Florence-2-base's shapes with random weights in float32, one torch thread, a 768×768 picture of
noise, in memory. Random weights never end an answer, so every answer has `--tokens` tokens: a
category, or three boxes, has as many.
Each round has new pictures, and asks one question about the first, five about the second, and
twenty about the third. The twenty of the last round are then asked one by one, and must get the
same tokens.
Each pair asks one question about a new picture and one about another without looking for it in the
cache. What is sought is a hundredth, so each counts with its least time of all pairs.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor

from deployments.florence.engine.engine import Engine
from deployments.florence.image_cache import ImageCache
from deployments.florence.sequence import Pixels, Sequence, Tokens
from deployments.preprocess import digest_of
from loadtest.bench import figures
from loadtest.bench.driver import Driver
from loadtest.gpu.model import BASE, SEED, SMALL, BenchModel, imposed, random_model

FIVE, TWENTY = 5, 20
CACHE_BYTES = 64_000_000  # inference.image_cache_mb
WANTED = {"five": 1.8, "twenty": 2.5, "cold": 1.01}
ROWS = {
    "CPU, s": ("cpu_s", 2),
    "against one": ("ratio", 2),
    "wanted, at most": ("wanted", 2),
}


class Shape(StrEnum):
    BASE = "base"
    SMALL = "small"


@dataclass(frozen=True)
class QuestionsBench:
    tokens: int
    beams: int
    rounds: int
    pairs: int
    max_batch_size: int
    prefill_batch_size: int
    shape: Shape


@dataclass
class Round:
    """Processor seconds of one question, of five and of twenty."""

    one: float
    five: float
    twenty: float


Pairs = list[tuple[float, float]]  # processor seconds of one question, and without a cache


def main(
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of every answer.")] = 20,
    beams: Annotated[int, typer.Option(min=1, help="Beams of every answer.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of one, five and twenty.")] = 3,
    pairs: Annotated[int, typer.Option(min=1, help="Turns with the cache and without.")] = 8,
    max_batch_size: Annotated[int, typer.Option(help="Answers under way.")] = 32,
    prefill_batch_size: Annotated[int, typer.Option(help="Questions read together.")] = 4,
    shape: Annotated[Shape, typer.Option(help="How large the model is.")] = Shape.BASE,
) -> None:
    """Measure, print the table, write out/bench/questions.json."""
    torch.set_num_threads(1)
    asked = QuestionsBench(tokens, beams, rounds, pairs, max_batch_size, prefill_batch_size, shape)
    questions = Questions(asked)
    console, measured = Console(), []
    for _ in range(rounds):
        measured.append(questions.round())
        console.print(measured[-1])
    apart_s = questions.apart_s()
    found = [questions.pair(number) for number in range(pairs)]
    columns = summary(measured, found, apart_s)
    result = {
        "asked": asdict(asked),
        "rounds": [*map(asdict, measured)],
        "pairs": found,
        "ways": columns,
    }
    console.print(figures.table(f"Questions about one picture, {tokens} tokens", columns, ROWS))
    console.print("The answers equal those that each question gets alone.")
    console.print(f"Figures: {figures.write('questions', result)}")


def summary(rounds: list[Round], pairs: Pairs, apart_s: float) -> dict[str, dict[str, float]]:
    """Each way's seconds, and the median over the rounds of its ratio to one question.

    The last is one question that looks for its picture in the cache, against one that does not.
    """

    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    one_s = median(each.one for each in rounds)
    cached_s, uncached_s = map(min, zip(*pairs, strict=True))
    return {
        "one": {"cpu_s": one_s, "ratio": 1.0},
        "five": {
            "cpu_s": median(each.five for each in rounds),
            "ratio": median(each.five / each.one for each in rounds),
            "wanted": WANTED["five"],
        },
        "twenty": {
            "cpu_s": median(each.twenty for each in rounds),
            "ratio": median(each.twenty / each.one for each in rounds),
            "wanted": WANTED["twenty"],
        },
        "twenty, one by one": {"cpu_s": apart_s, "ratio": apart_s / one_s},
        "one, against no cache": {
            "cpu_s": cached_s,
            "ratio": cached_s / uncached_s,
            "wanted": WANTED["cold"],
        },
    }


class Questions:
    """An engine with a cache, and twenty questions."""

    def __init__(self, asked: QuestionsBench) -> None:
        self._asked = asked
        shape = BASE if asked.shape is Shape.BASE else SMALL
        self._model: BenchModel = random_model(shape, torch.device("cpu"), torch.float32)
        self._prompts = [each.prompt for each in self._model.sequences([asked.tokens] * TWENTY)]
        self._cache: ImageCache[Tensor] = ImageCache(CACHE_BYTES)
        self._engine: Engine = self._model.engine(
            imposed(asked.beams, asked.tokens, asked.max_batch_size, asked.prefill_batch_size),
            self._cache,
        )
        self._noise = np.random.default_rng(SEED)
        self._last: tuple[Pixels, list[Tokens]] | None = None

    def round(self) -> Round:
        """Each way once."""
        one_s, _ = self._ask(self._picture(), 1)
        five_s, _ = self._ask(self._picture(), FIVE)
        picture = self._picture()
        twenty_s, answers = self._ask(picture, TWENTY)
        self._last = picture, answers
        return Round(one_s, five_s, twenty_s)

    def pair(self, number: int) -> tuple[float, float]:
        """One question with the cache and one without; every other pair begins with the second."""
        order = (True, False) if number % 2 else (False, True)
        seconds = {is_cached: self._ask(self._picture(), 1, is_cached)[0] for is_cached in order}
        return seconds[True], seconds[False]

    def apart_s(self) -> float:
        """Processor seconds of the last twenty questions, one by one.

        Raises:
            SystemExit: they do not get the same answers.
        """
        assert self._last
        picture, together = self._last
        found = [self._ask(picture, n + 1, False, first=n) for n in range(TWENTY)]
        if [answer for _, [answer] in found] != together:
            raise SystemExit("the answers differ, so the ways did not do the same work")
        return sum(seconds for seconds, _ in found)

    def _picture(self) -> Pixels:
        width, height = self._model.image
        return self._noise.integers(0, 256, (height, width, 3), np.uint8)

    def _ask(
        self, picture: Pixels, last: int, is_cached: bool = True, first: int = 0
    ) -> tuple[float, list[Tokens]]:
        """Processor seconds of the questions `first` to `last`, and their answers in order."""
        before = time.process_time()
        key = digest_of(picture) if is_cached else None
        template = Sequence(picture, (), image_key=key, max_new_tokens=self._asked.tokens)
        sequences = [replace(template, prompt=each) for each in self._prompts[first:last]]
        ended = sorted(Driver(self._engine, sequences, self._asked.max_batch_size, 0.0).run())
        return time.process_time() - before, [each.tokens for each in ended]


if __name__ == "__main__":
    typer.run(main)
