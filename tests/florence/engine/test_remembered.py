"""Images that were seen before: the same answer without another look, apart for each caller."""

from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from deployments.florence.backend import Job
from deployments.florence.backends import open_engine
from deployments.florence.cache import Cache
from deployments.florence.model import Model
from deployments.florence.request import Query, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import InferenceSettings, ModelSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Model:
    """The demo checkpoint."""
    return Model(ModelSettings(path="demo", device="cpu"))


def about(model: Model, seed: int, task: str = "region-proposal", key: str | None = None) -> Query:
    """A query about noise."""
    width, height = model.checkpoint.image_size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Query(pixels, model.checkpoint.prompt(TASKS[task].sentence), image_key=key)


def answers(model: Model, batches: list[list[Query]], cache: Cache[Tensor] | None) -> list[Tokens]:
    """What an engine says, a batch after the other."""
    engine = open_engine(model, InferenceSettings(), 200, cache)
    found = []
    for batch in batches:
        jobs = [Job(query) for query in batch]
        engine.admit(jobs)
        done: dict[Job[Query], Tokens] = {}
        while len(done) < len(jobs):
            done |= dict(engine.step())
        found += [done[job] for job in jobs]
    return found


def test_a_known_image_gets_the_same_answer(model: Model) -> None:
    """Also beside a new one, and when another task asks about it."""
    first, second = about(model, 1, key="a"), about(model, 2, key="b")
    again = about(model, 1, "caption", key="a")
    batches = [[first], [second, first, again]]
    cache: Cache[Tensor] = Cache(1_000_000)
    assert answers(model, batches, cache) == answers(model, batches, None)
    assert cache.take_hits() == 2


def test_the_image_is_not_looked_at_again(model: Model) -> None:
    """With the key of another image, the answer is about that one: the tower was not asked."""
    shown, other = about(model, 1, key="a"), replace(about(model, 2), image_key="a")
    cache: Cache[Tensor] = Cache(1_000_000)
    said = answers(model, [[shown], [other]], cache)
    assert said[0] == said[1]


def test_without_a_key_every_image_is_looked_at(model: Model) -> None:
    """Nothing is remembered of it."""
    cache: Cache[Tensor] = Cache(1_000_000)
    answers(model, [[about(model, 1)], [about(model, 1)]], cache)
    assert (cache.num_bytes, cache.take_hits()) == (0, 0)


def test_memory_is_bounded_by_whole_images(model: Model) -> None:
    """Room for one image holds one."""
    cache: Cache[Tensor] = Cache(model.checkpoint.num_image_tokens * 128 * 4)
    answers(model, [[about(model, seed, key=str(seed))] for seed in range(3)], cache)
    assert cache.num_bytes == model.checkpoint.num_image_tokens * 128 * 4
    assert cache.get("2") is not None
