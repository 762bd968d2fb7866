"""How long the engine and transformers take for the large model."""

import collections.abc
import time
from dataclasses import replace
from itertools import cycle, islice

import torch

from deployments.florence.engine.batch import aligned
from deployments.florence.engine.encoder import Encoder
from deployments.florence.engine.engine import Engine
from deployments.florence.engine.prefill import Prefill
from deployments.florence.sequence import Sequences
from loadtest.bench.driver import Driver
from loadtest.gpu.floor import timed_s, wait
from loadtest.gpu.model import NUM_TEXT_TOKENS, BenchModel

PASSES = 10
MAX_WAIT_S = 0.002  # the service's default
NUM_IMAGES = 16  # different ones, in turn
WAVES = 3  # of answers, as many in each as the batch has places; the first one is not counted


@torch.inference_mode()
def prefill_ms(large: BenchModel, sizes: collections.abc.Sequence[int]) -> dict[int, float]:
    """Milliseconds for an image on its way to the first token, by how many go together."""
    device, image_tokens = large.inputs.mean.device, large.inputs.num_image_tokens
    num_text_tokens = aligned(image_tokens + NUM_TEXT_TOKENS) - image_tokens
    prefill = Prefill(
        Encoder(large.florence), replace(large.inputs, num_text_tokens=num_text_tokens)
    )
    found = {}
    for size in sorted(sizes, reverse=True):
        sequences = large.sequences([1] * size)
        prefill.record(sequences)
        repeat(prefill, sequences, 2)
        seconds = timed_s(lambda sequences=sequences: repeat(prefill, sequences, PASSES), device)  # type: ignore[misc]
        found[size] = 1000 * seconds / PASSES / size
    return dict(sorted(found.items()))


def repeat(prefill: Prefill, sequences: Sequences, num: int) -> None:
    """One pass after the other, each read before the next."""
    for _ in range(num):
        prefill(sequences).wait()


def step_ms(
    engine: Engine,
    large: BenchModel,
    batch_size: int,
    contexts: collections.abc.Sequence[int],
    num_steps: int,
) -> dict[int, float]:
    """Milliseconds of a step of so many sequences, by how many tokens they have so far."""
    device = large.inputs.mean.device
    begin(engine, large.sequences([max(contexts) + num_steps] * batch_size), device)
    found, taken = {}, 0
    for context in sorted(contexts):
        first = context - num_steps // 2
        step(engine, first - taken)
        found[context] = 1000 * timed_s(lambda: step(engine, num_steps), device) / num_steps
        taken = first + num_steps
    engine.reset()
    return found


def begin(engine: Engine, sequences: Sequences, device: torch.device) -> None:
    engine.reset()
    size = engine.prefill_batch_size
    for start in range(0, len(sequences), size):
        engine.add(sequences[start : start + size])
    wait(device)


def step(engine: Engine, num: int) -> None:
    """So many steps; no answer may end in them."""
    for _ in range(num):
        assert not engine.step()


def images_per_s(
    engine: Engine, large: BenchModel, max_batch_size: int, num_tokens: int, most_s: float
) -> float:
    """Images a second while the batch is full, measured for about `most_s` at most.

    It counts from when as many have been answered as the batch has places: equal answers end in
    waves, each of as many.
    """
    engine.reset()
    images = cycle(large.sequences([num_tokens] * NUM_IMAGES))
    sequences = (replace(image) for image in images)
    answers = Driver(engine, sequences, max_batch_size, MAX_WAIT_S).run()
    began = time.perf_counter()
    list(islice(answers, max_batch_size))
    first, num = time.perf_counter(), 0
    for _ in islice(answers, (WAVES - 1) * max_batch_size):
        num += 1
        if time.perf_counter() - began > most_s:
            break
    rate = num / (time.perf_counter() - first)
    engine.reset()
    return rate


def generate_images_per_s(large: BenchModel, batch: int, num_tokens: int) -> float:
    sequences, device = large.sequences([num_tokens] * batch), large.inputs.mean.device
    large.generate(sequences, 1, max_new_tokens=2, min_new_tokens=2)
    bounds = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
    return batch / timed_s(lambda: large.generate(sequences, 1, **bounds), device)
