"""Whether the engine gives the tokens of transformers, on the device that is measured."""

import collections.abc
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Florence2ForConditionalGeneration

import deployments
from deployments.florence.engine.engine import Engine, EngineConfig
from deployments.florence.sequence import Sequence, Sequences, Tokens
from loadtest.bench.driver import Driver
from loadtest.gpu.model import BOS, EOS, SEED, SMALL, BenchModel, imposed, on_device, random_model

LENGTHS = (3, 40, 7, 25, 12, 48, 5, 33, 18, 9, 44, 21)  # imposed, so that sequences come and go
MAX_BATCH_SIZE = 5
PREFILL_BATCH_SIZE = 3
DEMO = Path(deployments.__file__).parent / "demo" / "checkpoint"
SENTENCE = "Locate the region proposals in the image."
NUM_BINS = 1000
NUM_SCENES = 8
COLOURS = ((200, 40, 40), (40, 160, 60), (50, 70, 200), (230, 200, 50))

Box = tuple[float, ...]


@dataclass(frozen=True)
class EqualShare:
    equal: int
    total: int

    def __str__(self) -> str:
        return f"{self.equal} of {self.total}"

    @property
    def is_whole(self) -> bool:
        return self.equal == self.total


def exact(device: torch.device, num_beams: int) -> EqualShare:
    """Answers in fp32 that are equal to `generate` one by one, token by token."""
    torch.backends.cudnn.allow_tf32 = False  # or convolutions keep ten bits
    small = random_model(SMALL, device, torch.float32)
    sequences = small.sequences(LENGTHS)
    expected = [alone(small, sequence, num_beams) for sequence in sequences]
    engine = small.engine(imposed(num_beams, max(LENGTHS), MAX_BATCH_SIZE, PREFILL_BATCH_SIZE))
    return same(answers(engine, sequences), expected)


def alone(whose: BenchModel, sequence: Sequence, num_beams: int) -> Tokens:
    bounds = {"max_new_tokens": sequence.max_new_tokens, "min_new_tokens": sequence.max_new_tokens}
    [answer] = whose.generate([sequence], num_beams, **bounds)
    return answer


def answers(engine: Engine, sequences: Sequences) -> list[Tokens]:
    driver = Driver(engine, sequences, engine.max_batch_size, max_wait_s=0.0)
    return [sequence.tokens for sequence in sorted(driver.run())]


def same(
    found: collections.abc.Sequence[Any], expected: collections.abc.Sequence[Any]
) -> EqualShare:
    return EqualShare(sum(a == b for a, b in zip(found, expected, strict=True)), len(expected))


def halves(large: BenchModel, num_images: int, num_tokens: int) -> tuple[EqualShare, EqualShare]:
    """Tokens of the large model that are equal to `generate`'s, and those with and without graphs.

    Sums in half precision depend on the shape of the batch, and after the first other token
    nothing needs to be equal: the first share says how near, the second must be whole.
    """
    sequences = large.sequences([num_tokens] * num_images)
    config = imposed(1, num_tokens, num_images, num_images)
    recorded = flat(answers(large.engine(config), sequences))
    launched = flat(answers(large.engine(replace(config, cuda_graphs=False)), sequences))
    expected = flat([alone(large, sequence, 1) for sequence in sequences])
    return same(recorded, expected), same(recorded, launched)


def flat(rows: collections.abc.Sequence[Tokens]) -> Tokens:
    return tuple(token for row in rows for token in row)


def boxes(device: torch.device, dtype: torch.dtype) -> float:
    """The least overlap (IoU) of the demo's boxes with those of `generate`; 0 where one lacks."""
    florence: Any = Florence2ForConditionalGeneration.from_pretrained(DEMO, dtype=dtype)
    seen = json.loads((DEMO / "processor_config.json").read_text())["image_processor"]
    side, num_image_tokens = seen["size"]["height"], seen["image_seq_length"]
    demo = on_device(florence.to(device).eval(), side, num_image_tokens)
    vocabulary = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    image_tokens = [florence.config.image_token_id] * num_image_tokens
    sequences = list(questions(vocabulary, image_tokens, side))
    engine = demo.engine(
        EngineConfig(
            max_batch_size=MAX_BATCH_SIZE,
            prefill_batch_size=4,
            num_beams=3,
            max_new_tokens=40,
            max_text_tokens=len(sequences[0].prompt) - num_image_tokens,
        )
    )
    first = vocabulary.get_vocab()["<loc_0>"]
    found = [boxes_of(answer, first) for answer in answers(engine, sequences)]
    expected = [demo.generate([sequence], 3, max_new_tokens=40)[0] for sequence in sequences]
    pairs = zip(found, (boxes_of(answer, first) for answer in expected), strict=True)
    return min((overlap for a, b in pairs for overlap in overlaps(a, b)), default=0.0)


def questions(vocabulary: Tokenizer, image_tokens: list[int], side: int) -> Iterator[Sequence]:
    """Up to three squares beside each other in pictures of `side` × `side` pixels."""
    words = vocabulary.encode(SENTENCE, add_special_tokens=False).ids
    prompt, unit = [*image_tokens, BOS, *words, EOS], side // 32
    chance = np.random.default_rng(SEED)
    for number in range(NUM_SCENES):
        scene = np.full((side, side, 3), 225, np.uint8)
        for place in range(1 + number % 3):
            size, top = chance.integers(5 * unit, 9 * unit), chance.integers(0, 23 * unit)
            left = (1 + 10 * place) * unit + chance.integers(0, unit)
            scene[top : top + size, left : left + size] = COLOURS[(number + place) % len(COLOURS)]
        yield Sequence(scene, prompt)


def boxes_of(answer: Tokens, first: int) -> list[Box]:
    """The corners of each box, in bins; location tokens follow each other from id `first`."""
    bins = [float(token - first) for token in answer if first <= token < first + NUM_BINS]
    return [tuple(bins[i : i + 4]) for i in range(0, len(bins) - 3, 4)]


def overlaps(
    found: collections.abc.Sequence[Box], expected: collections.abc.Sequence[Box]
) -> list[float]:
    """The IoU of each box with the one in its place."""
    if len(found) != len(expected):
        return [0.0]
    return [overlap(a, b) for a, b in zip(found, expected, strict=True)]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union; 1 for equal boxes, however thin."""
    if a == b:
        return 1.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / max(area(a) + area(b) - both, 1.0)


def area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
