"""How long the engine and transformers take for the large model."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch

from deployments.florence.backend import Job
from deployments.florence.engine.build import aligned
from deployments.florence.engine.encoder import Encoder
from deployments.florence.engine.engine import Engine
from deployments.florence.engine.prefill import Prefill
from deployments.florence.request import Query
from loadtest.bench.driver import Driver
from loadtest.gpu.floor import timed_s, wait
from loadtest.gpu.subject import NUM_WORDS, Subject

PASSES = 10
PATIENCE_S = 0.002  # the service's default
NUM_IMAGES = 16  # different ones, in turn
WAVES = 3  # of answers, as many in each as there are slots; the first one is not counted


@torch.inference_mode()
def prefill_ms(large: Subject, sizes: Sequence[int]) -> dict[int, float]:
    """Milliseconds for an image on its way to the first token, by how many go together."""
    device, image_tokens = large.inputs.mean.device, large.inputs.num_image_tokens
    num_words = aligned(image_tokens + NUM_WORDS) - image_tokens
    prefill = Prefill(Encoder(large.florence), replace(large.inputs, num_words=num_words))
    found = {}
    for size in sorted(sizes, reverse=True):
        queries = large.queries([1] * size)
        prefill.record(queries)
        repeat(prefill, queries, 2)
        seconds = timed_s(lambda queries=queries: repeat(prefill, queries, PASSES), device)  # type: ignore[misc]
        found[size] = 1000 * seconds / PASSES / size
    return dict(sorted(found.items()))


def repeat(prefill: Prefill, queries: Sequence[Query], num: int) -> None:
    """One pass after the other, each read before the next."""
    for _ in range(num):
        prefill(queries).wait()


def step_ms(
    engine: Engine, large: Subject, num_rows: int, contexts: Sequence[int], num_steps: int
) -> dict[int, float]:
    """Milliseconds of a step of so many rows, by how many tokens they have so far."""
    device = large.inputs.mean.device
    begin(engine, large.queries([max(contexts) + num_steps] * num_rows), device)
    found, taken = {}, 0
    for context in sorted(contexts):
        first = context - num_steps // 2
        step(engine, first - taken)
        found[context] = 1000 * timed_s(lambda: step(engine, num_steps), device) / num_steps
        taken = first + num_steps
    engine.reset()
    return found


def begin(engine: Engine, queries: Sequence[Query], device: torch.device) -> None:
    """Let all have a row before the first step."""
    engine.reset()
    jobs = [Job(query) for query in queries]
    for start in range(0, len(jobs), engine.micro_batch):
        engine.admit(jobs[start : start + engine.micro_batch])
    wait(device)


def step(engine: Engine, num: int) -> None:
    """So many steps; no answer may end in them."""
    for _ in range(num):
        assert not engine.step()


def images_per_s(
    engine: Engine, large: Subject, num_slots: int, num_tokens: int, most_s: float
) -> float:
    """Images a second while all slots are in use, measured for about `most_s` at most.

    It counts from when as many have been answered as there are slots: equal answers end in
    waves, each of as many.
    """
    engine.reset()
    queries = cycle(large.queries([num_tokens] * NUM_IMAGES))
    answers = Driver(engine, queries, num_slots, PATIENCE_S).answers()
    began = time.perf_counter()
    list(islice(answers, num_slots))
    first, num = time.perf_counter(), 0
    for _ in islice(answers, (WAVES - 1) * num_slots):
        num += 1
        if time.perf_counter() - began > most_s:
            break
    rate = num / (time.perf_counter() - first)
    engine.reset()
    return rate


def generate_images_per_s(large: Subject, batch: int, num_tokens: int) -> float:
    """Images a second of transformers in one pass."""
    queries, device = large.queries([num_tokens] * batch), large.inputs.mean.device
    large.generate(queries, 1, max_new_tokens=2, min_new_tokens=2)
    bounds = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
    return batch / timed_s(lambda: large.generate(queries, 1, **bounds), device)
