"""`make bench-engine`: the engine alone against transformers' `generate`, on one thread of a CPU.

    python -m loadtest.bench.engine [--shape base] [--requests 8] [--max-batch-size 8] [--beams 1]
                                    [--rounds 1] [--prefill-batch-size 4] [--max-wait-ms 2]

A Florence-2 with random weights in the shapes of Florence-2-base, with its 51,328 words and images
of 768×768. `--shape small` has a width of 256, four encoder and four decoder layers, 1472 words and
images of 224×224, and 96 requests in two rounds where nothing else is asked for.
Three ways take turns on the same requests, images in memory, encoder included: the engine with
`max_batch_size` sequences, `generate` in batches of as many, and `generate` one by one, for every
eighth request by length. Lengths are imposed, and all three must give the same tokens.
"""

import collections.abc
import math
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist, mean
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor
from transformers import (
    Florence2ForConditionalGeneration,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.utils import logging as transformers_logging

from deployments.florence.generate_backend import GREEDY
from deployments.florence.model import Model
from deployments.florence.open import open_engine
from deployments.florence.sequence import Sequence, Sequences, Tokens
from deployments.florence.tasks import TASKS, no_words
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings, ModelSettings
from loadtest.bench import figures
from loadtest.bench.checkpoint import SEED, base_checkpoint, config, describe
from loadtest.bench.driver import Driver
from loadtest.bench.questions import Shape

LENGTHS = NormalDist(math.log(110), 0.9)  # of the logarithm
LIMITS = (20, 600)
FIXED = 40
MAX_POSITIONS = 1024
EVERY = 8  # of so many requests one is answered alone
USUAL = {Shape.BASE: (8, 1), Shape.SMALL: (96, 2)}  # requests and rounds
ENGINE, STATIC, ALONE = "engine", "static batch", "one by one"
WANTED = {
    ("mixed", STATIC): 2.0,
    ("fixed", STATIC): 1.25,
    ("mixed", ALONE): 4.0,
    ("fixed", ALONE): 4.0,
}

ROWS = {
    "CPU, ms": ("cpu_ms", 1),
    "wall, ms": ("wall_ms", 1),
    "sequences in a step": ("mean_batch_size", 1),
}

Way = Callable[[Sequences], list[Tokens]]
T = TypeVar("T")


@dataclass(frozen=True)
class EngineBench:
    requests: int
    max_batch_size: int
    beams: int
    rounds: int
    prefill_batch_size: int
    max_wait_ms: float

    def inference(self) -> InferenceSettings:
        """The same for the engine, in which no answer ends before its own limit."""
        return InferenceSettings(
            max_batch_size=self.max_batch_size,
            prefill_batch_size=self.prefill_batch_size,
            num_beams=self.beams,
            max_new_tokens=LIMITS[1],
            min_new_tokens=LIMITS[1],
        )


@dataclass
class TimePerImage:
    """Milliseconds that an image and its answer take, and the answers under way in a mean step."""

    cpu_ms: float = 0.0
    wall_ms: float = 0.0
    mean_batch_size: float = 1.0


def main(
    shape: Annotated[Shape, typer.Option(help="How large the model is.")] = Shape.BASE,
    requests: Annotated[int | None, typer.Option(min=8, help="Requests of each load.")] = None,
    max_batch_size: Annotated[int, typer.Option(help="Of the engine and the static batch.")] = 8,
    beams: Annotated[int, typer.Option(help="Beams of every answer.")] = 1,
    rounds: Annotated[int | None, typer.Option(help="Turns of each way.")] = None,
    prefill_batch_size: Annotated[int, typer.Option(help="Images that are read together.")] = 4,
    max_wait_ms: Annotated[float, typer.Option(help="Wait for more images.")] = 2.0,
) -> None:
    """Measure, print the table, write out/bench/engine.json."""
    num, turns = USUAL[shape]
    num = requests or num
    asked = EngineBench(
        num, max_batch_size, beams, rounds or turns, prefill_batch_size, max_wait_ms
    )
    wanted = {"mixed": mixed(num), "fixed": [FIXED] * num}
    with tempfile.TemporaryDirectory() as folder:
        is_base = shape is Shape.BASE
        checkpoint = base_checkpoint() if is_base else write_checkpoint(Path(folder))
        comparison = Comparison(checkpoint, asked)
        spent = {load: comparison.run(lengths) for load, lengths in wanted.items()}
    ratios = {
        f"{load} lengths against {way}": spent[load][way].cpu_ms / spent[load][ENGINE].cpu_ms
        for load, way in WANTED
    }
    result = {
        "asked": {"shape": shape.value, **asdict(asked)},
        "per_image": {
            load: {w: asdict(s) for w, s in ways.items()} for load, ways in spent.items()
        },
        "ratios": ratios,
    }
    console = Console()
    columns = {
        f"{load}, {way}": asdict(found)
        for load, ways in spent.items()
        for way, found in ways.items()
    }
    console.print(figures.table("An image and its answer", columns, ROWS))
    for (name, ratio), least in zip(ratios.items(), WANTED.values(), strict=True):
        console.print(f"{name}: ×{ratio:.2f}, wanted ×{least}")
    console.print(f"Figures: {figures.write('engine', result)}")


def mixed(num: int) -> list[int]:
    """Even quantiles of the mixed lengths, shuffled."""
    drawn = [round(math.exp(LENGTHS.inv_cdf((i + 0.5) / num))) for i in range(num)]
    chosen = [min(max(length, LIMITS[0]), LIMITS[1]) for length in drawn]
    random.Random(SEED).shuffle(chosen)
    return chosen


def write_checkpoint(folder: Path) -> Path:
    """The benchmarks' model with random weights, for longer answers."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(SEED)
    longer: Any = config()
    longer.text_config.max_position_embeddings = MAX_POSITIONS
    florence: Any = Florence2ForConditionalGeneration(longer)
    florence.generation_config = GenerationConfig.from_pretrained(DEMO_CHECKPOINT)
    describe(folder)
    florence.save_pretrained(folder)
    return folder


class Comparison:
    """The engine and `generate` over one model."""

    def __init__(self, folder: Path, asked: EngineBench) -> None:
        self._asked = asked
        self._model = Model(ModelSettings(path=str(folder), device="cpu", dtype="float32"))
        sentences = [task.sentence for task in TASKS.values() if task.words is no_words]
        self._prompts = list(map(self._model.checkpoint.prompt, sentences))
        longest = max(map(len, self._prompts))
        self._engine = open_engine(self._model, asked.inference(), longest)
        self._mean_batch_size = 0.0

    def run(self, lengths: collections.abc.Sequence[int]) -> dict[str, TimePerImage]:
        """What each way takes for answers of these lengths.

        Raises:
            SystemExit: they do not say the same.
        """
        sequences, few, width = (
            self._sequences(lengths),
            middles(lengths),
            self._asked.max_batch_size,
        )
        alone = [sequences[number] for number in few]
        ways: dict[str, Way] = {
            ENGINE: self._in_flight,
            STATIC: partial(self._static, width=width),
            ALONE: partial(self._static, width=1),
        }
        spent = {way: TimePerImage() for way in ways}
        said: dict[str, list[Tokens]] = {}
        for _ in range(self._asked.rounds):
            for name, way in ways.items():
                mine = alone if name == ALONE else sequences
                said[name] = timed(way, mine, spent[name], mean(lengths) / self._asked.rounds)
        if said[ENGINE] != said[STATIC] or [said[ENGINE][i] for i in few] != said[ALONE]:
            raise SystemExit("the answers differ, so the ways did not do the same work")
        spent[ENGINE].mean_batch_size = self._mean_batch_size
        spent[STATIC].mean_batch_size = sum(lengths) / sum(map(max, batches(lengths, width)))
        return spent

    def _sequences(self, lengths: collections.abc.Sequence[int]) -> list[Sequence]:
        width, height = self._model.checkpoint.image_size
        noise = np.random.default_rng(SEED)
        return [
            Sequence(
                noise.integers(0, 256, (height, width, 3), np.uint8),
                self._prompts[number % len(self._prompts)],
                max_new_tokens=length,
            )
            for number, length in enumerate(lengths)
        ]

    def _in_flight(self, sequences: Sequences) -> list[Tokens]:
        driver = Driver(
            self._engine, sequences, self._asked.max_batch_size, self._asked.max_wait_ms / 1000
        )
        ended = sorted(driver.run())
        self._mean_batch_size = driver.mean_batch_size
        return [sequence.tokens for sequence in ended]

    def _static(self, sequences: Sequences, width: int) -> list[Tokens]:
        beams = self._asked.beams
        passes = (generate(self._model, batch, beams) for batch in batches(sequences, width))
        return [answer for answers in passes for answer in answers]


@torch.inference_mode()
def generate(model: Model, sequences: Sequences, num_beams: int) -> list[Tokens]:
    """The token ids of each answer, from its start token on, `max_new_tokens` beyond that.

    All go through one pass, which takes as many steps as the longest answer has tokens.
    """
    lengths = [sequence.max_new_tokens or 0 for sequence in sequences]
    ids, mask = model.padded([sequence.prompt for sequence in sequences])
    answers: Tensor = model.florence.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=model.normalised([sequence.pixels for sequence in sequences]),
        max_new_tokens=max(lengths),
        min_new_tokens=max(lengths),  # bans the end, until it is forced
        logits_processor=LogitsProcessorList([ForcedEnds(lengths, num_beams, model.rules().eos)]),
        num_beams=num_beams,
        do_sample=False,
        **(GREEDY if num_beams == 1 else {}),
    )
    pairs = zip(answers.tolist(), lengths, strict=True)
    return [tuple(tokens[: length + 1]) for tokens, length in pairs]


class ForcedEnds(LogitsProcessor):
    """Forces each sequence's end as its last token, as transformers does at the longest length."""

    def __init__(self, lengths: collections.abc.Sequence[int], num_beams: int, eos: int) -> None:
        self._lengths = [length for length in lengths for _ in range(num_beams)]
        self._eos = eos

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (sequences · beams, words); a beam that must end can do nothing else."""
        ends = [beam for beam, length in enumerate(self._lengths) if length == input_ids.shape[1]]
        if ends:
            scores[ends] = float("-inf")
            scores[ends, self._eos] = 0.0
        return scores


def middles(lengths: collections.abc.Sequence[int]) -> list[int]:
    """The places of the middle one of every eight, by length, so that the mean stays the same."""
    places = sorted(range(len(lengths)), key=lambda place: lengths[place])
    return places[EVERY // 2 :: EVERY]


def batches(items: collections.abc.Sequence[T], width: int) -> list[collections.abc.Sequence[T]]:
    return [items[i : i + width] for i in range(0, len(items), width)]


def timed(way: Way, sequences: Sequences, spent: TimePerImage, num_tokens: float) -> list[Tokens]:
    cpu, wall = time.process_time(), time.perf_counter()
    answers = way(sequences)
    share = 1000 * num_tokens / sum(sequence.max_new_tokens or 0 for sequence in sequences)
    spent.cpu_ms += share * (time.process_time() - cpu)
    spent.wall_ms += share * (time.perf_counter() - wall)
    return answers


if __name__ == "__main__":
    typer.run(main)
