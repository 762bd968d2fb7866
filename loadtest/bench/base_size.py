"""The engine at the size of Florence-2-base on one thread: `python -m loadtest.bench.base_size`.

    python -m loadtest.bench.base_size [--tokens 64] [--beams 3] [--rounds 2] [--shape base]

Random weights (231 M parameters, 51,328 words), float32, a photograph of 768×768, in memory.
Everything is processor time, and what a ratio compares takes turns within this run. Each figure is
printed as soon as it is known:
one request against transformers' `generate`, which must say the same; its decode step; four images
read together against one; seven short answers and one of 800 tokens in one batch against each
alone; a step with 32 clients that stream against a step without; and, where the processor computes
in bfloat16, the request in bfloat16.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from deployments.florence.batcher import PROGRESS_STEPS
from deployments.florence.engine.engine import Engine
from deployments.florence.image_cache import ImageCache
from deployments.florence.sequence import Pixels, Sequence, Tokens
from deployments.images.decode import decode, to_pixels
from deployments.settings import PreprocessSettings
from loadtest.bench import figures
from loadtest.bench.questions import Shape
from loadtest.gpu.model import BASE, SMALL, BenchModel, imposed, random_model
from loadtest.scenes import photograph

BICUBIC = 3  # Pillow's number, as in a processor's configuration
CACHE_BYTES = 64_000_000
SHORT, LONG = 7, 800  # answers of few tokens, and the tokens of the one beside them
STEPS = 8  # of each kind in a turn
TURNS = 3
CLIENTS = 32
TOGETHER = 4  # images

Figures = dict[str, float]


@dataclass(frozen=True)
class BaseSizeBench:
    tokens: int
    beams: int
    rounds: int
    shape: Shape


def main(
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the answer.")] = 64,
    beams: Annotated[int, typer.Option(min=1, help="Beams of every answer.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of a request and `generate`.")] = 2,
    shape: Annotated[Shape, typer.Option(help="How large the model is.")] = Shape.BASE,
) -> None:
    """Measure, print each figure, write out/bench/base-size.json."""
    torch.set_num_threads(1)
    asked, console = BaseSizeBench(tokens, beams, rounds, shape), Console()
    found: Figures = {}
    for part in measured(asked):
        found |= part
        for name, value in part.items():
            console.print(f"{name}: {value:.3f}")
    result = {"asked": asdict(asked), "figures": found}
    console.print(f"Figures: {figures.write('base-size', result)}")


def measured(asked: BaseSizeBench) -> Iterator[Figures]:
    """Every figure by its name, as soon as it is known."""
    bench = BaseSize(asked, torch.float32)
    request = bench.request()
    yield request
    for part in (bench.encoder, bench.lengths, bench.streams):
        yield part()
    if computes_in_bfloat16():
        seconds = BaseSize(asked, torch.bfloat16).request_s()
        ratio = request["generate, s"] / seconds
        yield {"request in bfloat16, s": seconds, "generate / request in bfloat16": ratio}


def computes_in_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 by itself, and does not emulate it."""
    ops: Any = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and bool(ops._is_mkldnn_bf16_supported())


class BaseSize:
    """One model, and the engines that are measured on it."""

    def __init__(self, asked: BaseSizeBench, dtype: torch.dtype) -> None:
        self._asked = asked
        shape = BASE if asked.shape is Shape.BASE else SMALL
        self._model: BenchModel = random_model(shape, torch.device("cpu"), dtype)
        self._noise = np.random.default_rng(0)

    def request(self) -> Figures:
        """One request by the engine and by `generate`, and the steps of the engine.

        Raises:
            SystemExit: they do not say the same.
        """
        engine, asked = self._engine(1, 1), self._asked
        ours_s, theirs_s, steps_s = [], [], []
        for number in range(asked.rounds):
            [sequence] = self._sequences([asked.tokens], number)
            began = time.process_time()
            steps_s += self._answer(engine, sequence)
            ours_s.append(time.process_time() - began)
            began = time.process_time()
            [answer] = self._generate(sequence)
            theirs_s.append(time.process_time() - began)
            if answer != sequence.tokens:
                raise SystemExit("the answers differ, so the ways did not do the same work")
        return {
            "generate, s": min(theirs_s),
            "request, s": min(ours_s),
            "generate / request": min(theirs_s) / min(ours_s),
            "step, ms": 1000 * statistics.median(steps_s),
        }

    def request_s(self) -> float:
        """Processor seconds of one request, whatever it says."""
        engine, seconds = self._engine(1, 1), []
        for number in range(self._asked.rounds):
            [sequence] = self._sequences([self._asked.tokens], number)
            seconds.append(timed(self._answer, engine, sequence))
        return min(seconds)

    def encoder(self) -> Figures:
        """An image by itself, and one of four that begin together."""
        engine = self._engine(TOGETHER, TOGETHER)
        alone_s, together_s = [], []
        for number in range(self._asked.rounds):
            sequences = self._sequences([2] * TOGETHER, number)
            together_s.append(timed(engine.add, sequences) / TOGETHER)
            engine.reset()
            alone_s.append(timed(engine.add, sequences[:1]))
            engine.reset()
        ratio = min(together_s) / min(alone_s)
        return {"encoder, s": min(alone_s), "encoder, of four / alone": ratio}

    def lengths(self) -> Figures:
        """A step of short answers, of a long one, and of all in one batch."""
        most = LONG + TURNS * STEPS + 1
        engine = self._engine(SHORT + 1, 1, most)
        ways = {"short": [0] * SHORT, "long": [LONG], "mixed": [0] * SHORT + [LONG]}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(TURNS):
            for way, lengths in ways.items():
                sequences = self._about_one_picture([most] * len(lengths))
                self._begin(engine, sequences)
                for sequence, length in zip(sequences, lengths, strict=True):
                    self._lengthen(engine, sequence, length)
                seconds[way] += [timed(engine.step) for _ in range(STEPS)]
                engine.reset()
        found = {way: 1000 * statistics.median(each) for way, each in seconds.items()}
        together = found["mixed"] / (found["short"] + found["long"])
        steps = {f"step of {way}, ms": value for way, value in found.items()}
        return steps | {"step of mixed / sum": together}

    def streams(self) -> Figures:
        """Steps after which all clients hear of their progress, and steps without."""
        most = 2 * TURNS * PROGRESS_STEPS + 2
        engine = self._engine(CLIENTS, 1, most)
        sequences = self._about_one_picture([most] * CLIENTS)
        self._begin(engine, sequences)

        def steps() -> None:
            for _ in range(PROGRESS_STEPS):
                engine.step()

        def streamed() -> None:
            steps()
            engine.progress(sequences)

        without_s, with_s = [], []
        for _ in range(TURNS):
            without_s.append(timed(steps))
            with_s.append(timed(streamed))
        return {
            "step of 32, ms": 1000 * sum(without_s) / TURNS / PROGRESS_STEPS,
            "step with streams / without": sum(with_s) / sum(without_s),
        }

    def _engine(self, most: int, together: int, longest: int | None = None) -> Engine:
        config = imposed(self._asked.beams, longest or self._asked.tokens, most, together)
        return self._model.engine(config, ImageCache(CACHE_BYTES))

    def _sequences(self, lengths: list[int], number: int = 0) -> list[Sequence]:
        pixels = self._photograph(number)
        return [replace(each, pixels=pixels) for each in self._model.sequences(lengths)]

    def _about_one_picture(self, lengths: list[int]) -> list[Sequence]:
        """Many questions, of which only the first costs a pass of the vision tower."""
        return [replace(each, image_key="picture") for each in self._sequences(lengths)]

    def _photograph(self, number: int) -> Pixels:
        image = decode(photograph(number, self._model.image), PreprocessSettings())
        return to_pixels(image, self._model.image, BICUBIC)

    def _answer(self, engine: Engine, sequence: Sequence) -> list[float]:
        """Let the engine answer; processor seconds of each step."""
        engine.add([sequence])
        steps_s = []
        while not sequence.tokens:
            steps_s.append(timed(engine.step))
        return steps_s

    def _generate(self, sequence: Sequence) -> list[Tokens]:
        tokens = self._asked.tokens
        return self._model.generate(
            [sequence], self._asked.beams, max_new_tokens=tokens, min_new_tokens=tokens
        )

    def _begin(self, engine: Engine, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            engine.add([sequence])
        engine.step()

    def _lengthen(self, engine: Engine, sequence: Sequence, length: int) -> None:
        """Let a sequence stand where it stands after `length` tokens; they are random ones."""
        if not length:
            return
        batch, index = engine._batch, engine._running.index(sequence)
        sequence.length = length
        batch.length[index] = length
        drawn = self._noise.integers(3, 1000, batch.tokens[index].shape)
        batch.tokens[index] = torch.from_numpy(drawn)


def timed(work: Callable[..., object], *arguments: object) -> float:
    """Processor seconds of `work`."""
    began = time.process_time()
    work(*arguments)
    return time.process_time() - began


if __name__ == "__main__":
    typer.run(main)
